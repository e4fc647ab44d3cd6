"""The frozen teacher: built, audited, and its BatchNorm statistics."""
