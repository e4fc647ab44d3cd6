"""What networks make of images."""
