"""The trainer of DiHT: contrastive learning with hard negatives, concept distillation, exact resume.

`trainer.loop.train(config, workdir)` is the entry point, `trainer.config_files.load_config` makes a configuration.
"""
