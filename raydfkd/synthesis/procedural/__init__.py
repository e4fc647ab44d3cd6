"""Images that are rendered by a procedure: noise, dead leaves, shader programs, crops of a picture; and their synthesizer."""
