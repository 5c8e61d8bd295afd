"""The engine: run the units of any stage, retry failures, survive dead workers, and show
progress."""
