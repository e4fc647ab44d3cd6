"""Image classifiers. ``raydfkd.models.catalog`` gives them names."""

ImageShape = tuple[int, int, int]
"""(C, H, W): channels and pixels."""
