"""Pilot: run the real stages on a random sample of units, and forecast the whole data set with
intervals."""
