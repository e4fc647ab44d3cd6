"""Generator actors, the pool that starts and scales them, and the autoscaler."""
