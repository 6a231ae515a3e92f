"""The command: compose, check, run. Exit codes: 0, 1 diverged, 2 bad input, 130 and 143 stopped by a signal."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mrcnn_data import DatasetError
from mrcnn_eval import GroundTruthError, ResultsError
from mrcnn_train.composition import (
    CONFIG_NAME,
    CONFIG_PATH,
    HYDRA_VERSION_BASE,
    explain,
    launched_config,
)
from mrcnn_train.errors import ConfigError, DivergedError

EXIT_DIVERGED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main() -> int:
    """Run the command with the arguments of the process; what is wrong with them is one line on stderr."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets exceptions through instead of printing pages of its own
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # has to precede the import of TensorFlow
    try:
        _launch()
    except (HydraException, OmegaConfBaseException) as error:  # while the config is composed
        return _fail(explain(error), EXIT_BAD_INPUT)
    return 0


@hydra.main(version_base=HYDRA_VERSION_BASE, config_path=CONFIG_PATH, config_name=CONFIG_NAME)
def _launch(composed: DictConfig) -> None:
    # Everything is caught in here: Hydra announces what leaves this function with lines of its own.
    try:
        config = launched_config(composed)
        from mrcnn_train.runner import run

        exit_code = run(config)
    except (ConfigError, DatasetError, GroundTruthError, ResultsError) as error:
        exit_code = _fail(str(error), EXIT_BAD_INPUT)
    except DivergedError as error:
        exit_code = _fail(str(error), EXIT_DIVERGED)
    except KeyboardInterrupt:  # pressed twice, or before the run could note it
        exit_code = _fail("interrupted", EXIT_INTERRUPTED)
    if exit_code:
        sys.exit(exit_code)


def _fail(message: str, exit_code: int) -> int:
    print(f"mrcnn_train: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return exit_code
