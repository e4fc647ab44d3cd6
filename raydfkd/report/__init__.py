"""HTML reports and plots from run directories. Knows the run directory's format and nothing else of the package."""
