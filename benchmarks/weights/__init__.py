"""Training of the weights that ship, and the labels that they learn from and are judged by."""
