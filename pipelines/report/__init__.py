"""The report of a run: one HTML file with examples of the kept and rejected rows and the evidence
for each."""
