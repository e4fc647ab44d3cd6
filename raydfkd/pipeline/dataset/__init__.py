"""Building and inspecting data sets to distil on."""
