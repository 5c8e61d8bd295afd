"""Duplicates: exact ones by sorted key files, semantic ones by clustered embeddings.

`exact` and `semantic` find them with numpy and Arrow, without Beam. `exact_stages` and
`semantic_stages` run the search unit by unit, `deduplication` orders the stages, and later stages
read `findings`.

Rows never move. A unit writes small records of its rows. Other work units (ranges of keys, groups
of clusters) read their slice of every unit's file and find which rows duplicate which. A unit then
reads the findings on its own rows.
"""
