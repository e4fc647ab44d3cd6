"""Image classifiers. ``raydfkd.models.catalog`` gives them names."""
