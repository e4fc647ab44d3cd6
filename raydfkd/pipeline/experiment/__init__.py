"""From YAML files to a checked experiment, and from that to its parts."""
