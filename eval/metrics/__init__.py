"""Metrics: pure functions of scores and labels that know no model."""
