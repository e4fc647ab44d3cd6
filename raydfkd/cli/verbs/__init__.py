"""One file for each verb or family of verbs."""
