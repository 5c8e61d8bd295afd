"""Code that all other packages use. Nothing in it is specific to DiHT."""
