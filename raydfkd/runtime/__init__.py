"""The only package that imports Ray: actors (thin shells over plain objects), their clients, and the Ray runner."""
