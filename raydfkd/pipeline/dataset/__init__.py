"""Building and inspecting data sets for distillation."""
