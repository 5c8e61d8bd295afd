"""Who is asked, where, and what is kept: Beam over manifests. Asks `filters`; only `concepts` needs torch, and nothing
imports the trainer."""

import filters  # noqa: F401  (first: it asks for one thread per process, which workers inherit)
