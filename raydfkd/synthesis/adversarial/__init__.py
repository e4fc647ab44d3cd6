"""Methods that train one generator against the student and keep none of its images."""
