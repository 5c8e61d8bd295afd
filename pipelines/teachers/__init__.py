"""Data for concept distillation: vocabularies, the concepts of every sample, and features of a
teacher.

The trainer does the rest: `python -m open_diht.trainer.concepts` trains the teacher's heads on
these data and stores the targets. torch is imported only to find a device or to load a model.
"""
