"""Duplicates: exact ones by sorted key files, semantic ones by clustered embeddings. Numpy and Arrow, free of Beam.

Rows never move. A unit writes small records of its survivors; work units of another cut (ranges of keys, groups of
clusters) read their slice of every unit's file and say which rows are duplicates of which; a unit then reads what was
said of its own rows.
"""
