"""The trainer of DiHT: contrastive learning with hard negatives, concept distillation, exact
resume.

`open_diht.trainer.loop.train(config, workdir)` is the entry point, and
`open_diht.trainer.config_files.load_config` loads a configuration.
"""
