"""The driver: a run from plan to report, over the stages of its settings."""
