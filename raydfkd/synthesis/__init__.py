"""One file per synthesis method. Each turns a frozen teacher (and the current student) into batches of images."""
