"""Student workers under Ray Train, the store of their weights, their checkpoints and how they stop."""
