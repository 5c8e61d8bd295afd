"""Getting evaluation data and weights: the only part of the evaluation that talks to a network."""
