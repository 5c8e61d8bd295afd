"""Figures of time, memory and quality that one command makes: `python -m benchmarks.figures`."""
