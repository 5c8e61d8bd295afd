"""The report of a run: one HTML file that shows what was kept, what was not, and the evidence for each."""
