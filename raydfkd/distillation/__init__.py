"""Training the student on drawn images: the distiller, its objectives and its schedule."""
