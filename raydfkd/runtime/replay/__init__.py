"""The replay actor, the ingest that fills it, and its clients."""
