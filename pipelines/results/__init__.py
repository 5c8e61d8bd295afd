"""The end of a run: sums, the conservation check, examples, and what a person is told."""
