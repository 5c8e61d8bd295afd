"""Concept distillation: linear heads on a teacher's features learn the concepts of captions, and
the student's heads are trained on their stored predictions."""

from open_diht.trainer.concepts.targets import ConceptTargets, ShardTargets, open_targets

__all__ = ["ConceptTargets", "ShardTargets", "open_targets"]
