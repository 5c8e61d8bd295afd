"""What concept distillation needs of the data: vocabularies, the concepts of every sample, features of a teacher.

The rest is the trainer's: `python -m trainer.concepts` trains the teacher's heads on these and stores the targets.
`teacher.py` alone imports torch, when a worker loads the model.
"""
