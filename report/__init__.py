"""Reports: results of all folders as pictures and pages."""

from .chart import Candidate, Measured, Ranked, ranking_chart, save_chart, search_chart

__all__ = ["Candidate", "Measured", "Ranked", "ranking_chart", "save_chart", "search_chart"]
