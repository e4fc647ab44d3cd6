"""One run: its loops, the exchange between generators and students, its checkpoints and its result."""
