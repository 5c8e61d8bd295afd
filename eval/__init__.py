"""Measure how good a model is: metrics, baselines and uncertainty. The trainer is imported only to
load a model."""
