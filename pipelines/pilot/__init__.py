"""Pilot: a random sample of units through the real stages, and from it a forecast of the whole with intervals."""
