"""The stages: each turns one unit into published files and a commit record. `base` is what all of them share."""
