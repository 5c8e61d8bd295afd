"""Download evaluation data and weights; the other parts of the evaluation download nothing."""
