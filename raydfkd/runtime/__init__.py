"""The only package that imports Ray: actors (thin shells over plain objects), their clients, and the Ray runner."""

from raydfkd.runtime.local_ray import ensure_home

ensure_home()  # importing Ray already looks for the home directory
