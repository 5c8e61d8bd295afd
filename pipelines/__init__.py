"""Who is asked, where, and what is kept: Beam pipelines over manifests. Calls `filters`, imports neither torch nor the trainer."""
