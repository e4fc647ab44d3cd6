"""Student workers under Ray Train, their weights' store, their checkpoints and their end."""
