"""A bench: several methods on one teacher and student, each with the same budget, side by side."""
