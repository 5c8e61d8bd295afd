"""Metrics: functions of vectors, scores, labels and answers that know no model."""
