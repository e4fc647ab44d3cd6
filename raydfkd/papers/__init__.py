"""Papers as tables: each row of a paper's table as an experiment, and our results beside the paper's."""
