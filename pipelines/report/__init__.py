"""The report of a run: one HTML file with the kept and rejected rows and the evidence for each."""
