"""Duplicates: exact ones by sorted key files, semantic ones by clustered embeddings.

`exact` and `semantic` find them in numpy and Arrow, free of Beam; `exact_stages` and `semantic_stages` do so by units,
`deduplication` in order; `findings` is what later stages read.

Rows never move. A unit writes small records of its survivors; work units of another cut (ranges of keys, groups of
clusters) read their slice of every unit's file and find which rows are duplicates of which; a unit then reads what was
found of its own rows.
"""
