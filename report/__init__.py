"""Reports: results of all folders as one page, and as pictures."""

from .charts import ranking_chart, save_chart, search_chart
from .networks import fields_of, networks_of
from .page import TITLE, page
from .read import Inputs, read_inputs

__all__ = [
    "TITLE",
    "Inputs",
    "fields_of",
    "networks_of",
    "page",
    "ranking_chart",
    "read_inputs",
    "save_chart",
    "search_chart",
]
