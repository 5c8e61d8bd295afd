"""HTML kit of the reports and of `make view`: pages, safe text, charts and a shared style sheet."""
