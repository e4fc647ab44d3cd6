"""Image classifiers. ``raydfkd.models.catalog`` maps names to them."""

ImageShape = tuple[int, int, int]
"""(C, H, W): channels and pixels."""
