"""Methods that train a GAN on collected images."""
