"""From a teacher alone to an experiment: what is found about it, what it allows and a budget suggests, and the file."""
