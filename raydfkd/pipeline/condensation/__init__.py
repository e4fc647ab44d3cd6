"""Making and judging condensed sets."""
