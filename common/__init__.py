"""Ground that the packages stand on: files, statistics, ranks, the command line. Nothing of DiHT is in it."""
