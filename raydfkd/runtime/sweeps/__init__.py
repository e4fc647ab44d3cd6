"""Sweeps through Ray Tune."""
