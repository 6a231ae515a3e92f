"""Train Mask R-CNN: options, loop, checkpoints. The command is `python -m mrcnn_train`.

Names are imported when they are used, so that the command can handle Ctrl-C before its imports. Importing this package
does not import TensorFlow.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrcnn_train.api import train
    from mrcnn_train.config.options import RunConfig
    from mrcnn_train.errors import ConfigError, DivergedError, PeerLostError, SaveError
    from mrcnn_train.runner import run

__version__ = "0.1.0"

__all__ = ["ConfigError", "DivergedError", "PeerLostError", "RunConfig", "SaveError", "__version__", "run", "train"]

_HOMES = {"RunConfig": "config.options", "run": "runner", "train": "api"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'mrcnn_train' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"mrcnn_train.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
