"""Export as a SavedModel, with the compiled ops or with TensorFlow's own. TensorFlow is imported at the first use."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrcnn_model.export.portable import PORTABLE_OPS
    from mrcnn_model.export.saved_model import ServedModel, export

__all__ = ["PORTABLE_OPS", "ServedModel", "export"]

_HOMES = {"PORTABLE_OPS": "portable", "ServedModel": "saved_model", "export": "saved_model"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'mrcnn_model.export' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"mrcnn_model.export.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
