"""Pure functions of tensors. Shape letters: B batch, K classes, C channels. Natural logarithms throughout."""
