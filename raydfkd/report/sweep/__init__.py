"""A sweep's page."""
