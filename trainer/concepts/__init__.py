"""Concept distillation: a teacher's heads learn the concepts of captions, and the student learns
their predictions."""

from open_diht.trainer.concepts.targets import ConceptTargets, ShardTargets, open_targets

__all__ = ["ConceptTargets", "ShardTargets", "open_targets"]
