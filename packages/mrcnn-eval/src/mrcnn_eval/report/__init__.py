"""Tables, pictures and the HTML report of an evaluation. No TensorFlow; drawing and plotting are imported when used."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrcnn_eval.report.comparison import Comparison, ComparisonError, compare, read_other_run
    from mrcnn_eval.report.html import write_html_report
    from mrcnn_eval.report.pictures import draw_contact_sheet
    from mrcnn_eval.report.tables import ap_tables, metrics_content, write_ap_table, write_metrics, write_results

__all__ = [
    "Comparison",
    "ComparisonError",
    "ap_tables",
    "compare",
    "draw_contact_sheet",
    "metrics_content",
    "read_other_run",
    "write_ap_table",
    "write_html_report",
    "write_metrics",
    "write_results",
]

_HOMES = {
    "Comparison": "comparison",
    "ComparisonError": "comparison",
    "compare": "comparison",
    "draw_contact_sheet": "pictures",
    "read_other_run": "comparison",
    "write_html_report": "html",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'mrcnn_eval.report' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"mrcnn_eval.report.{_HOMES.get(name, 'tables')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
