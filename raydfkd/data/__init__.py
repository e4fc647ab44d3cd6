"""Images to read: data sets by kind (``kinds/``), collected images, decoding. A data-free run never trains on labelled data.

The readers are loaded on first use: the settings tree imports this package, which needs neither PIL nor Arrow.
"""
