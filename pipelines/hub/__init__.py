"""Data sets on a hub (`hf://datasets/owner/name`): read at one commit, and published when a run is finished.

A hub is no object store. Each write there is a commit of git, and nothing holds two runs apart: so a run works in a
folder of its own, and only what is finished goes there, in as few commits as that takes."""
