"""Supervised training of teachers."""
