"""The report of a run: one HTML file that shows what was kept, what was not, and the evidence for each."""

from open_diht.pipelines.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
