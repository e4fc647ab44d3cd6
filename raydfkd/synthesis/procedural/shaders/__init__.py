"""A library of parametrised pictures: an expression language, two renderers, and the program families written in it."""
