"""Ground that all other packages stand on, with nothing of DiHT in it."""
