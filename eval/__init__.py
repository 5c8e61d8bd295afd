"""How good the model is: metrics, baselines and their uncertainty. Imports the trainer only to load a model."""
