"""The numbers: pure functions of scores and labels, none of which knows a model."""
