"""Code that the other packages share."""
