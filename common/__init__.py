"""Ground that all packages stand on; nothing of DiHT in it."""
