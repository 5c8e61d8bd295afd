"""What concept distillation needs of the data: vocabularies, the concepts of every sample, features of a teacher.

The rest is the trainer's: `python -m open_diht.trainer.concepts` trains the teacher's heads on these and stores the
targets. Only `handler.py` (as Beam's RunInference calls it) and `teacher.py` need torch, when they run.
"""
