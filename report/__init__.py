"""Reports: results of all folders as pictures and pages."""

from .chart import Candidate, Measured, save_chart, search_chart

__all__ = ["Candidate", "Measured", "save_chart", "search_chart"]
