"""Download evaluation data and weights; the only part of the evaluation that uses a network."""
