"""Images to read: data sets by kind (``kinds/``), collected images, decoding. A data-free run trains on no labelled one.

The readers are loaded on first use: the settings tree imports this package, and needs neither PIL nor Arrow for it.
"""
