"""`make select`: choose rows of a finished run, and how often a training reads each row."""
