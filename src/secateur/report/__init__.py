"""WHAT CAME OUT: table, figures, one HTML page, live progress."""

from secateur.report.page import page, write
from secateur.report.progress import FineTuneProgress, SearchProgress
from secateur.report.report import Report, Row
from secateur.report.table import runtimes_table, table, wide_console
from secateur.report.wording import headline

__all__ = [
    "FineTuneProgress",
    "Report",
    "Row",
    "SearchProgress",
    "headline",
    "page",
    "runtimes_table",
    "table",
    "wide_console",
    "write",
]
