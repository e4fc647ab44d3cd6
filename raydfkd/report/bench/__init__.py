"""The page of a bench: its methods' accuracy over time and over images, and how each ended."""
