"""The replay actor, what fills it, and its clients."""
