"""One run: its loops, what joins generators with students, its checkpoints and its result."""
