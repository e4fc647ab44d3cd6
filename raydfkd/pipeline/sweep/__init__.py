"""A sweep's settings, its trials and its result, without Ray."""
