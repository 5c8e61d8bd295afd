"""The pipeline's stages. Each processes units, and publishes files and a commit record for each that it completes."""
