"""The pipeline's stages. Each processes units, and publishes the files and the commit record of
each completed unit."""
