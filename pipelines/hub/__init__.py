"""Data sets on a hub (`hf://datasets/owner/name`): read at one commit, and published when a run is
finished.

A hub is not an object store. Each write is a git commit, and there are no locks. So a run
works in a folder of its own, and only finished results are published, in few commits.
"""
