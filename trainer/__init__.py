"""The trainer of DiHT: contrastive learning with hard negatives and concept distillation."""
