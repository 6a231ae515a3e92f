"""The `mrcnn-eval` command: score a checkpoint or a results file against ground truth, or predict pictures."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Sequence

from mrcnn_data import DatasetError, OutputError, run_piped, visible
from mrcnn_eval.command.options import MAX_MESSAGE, UsageError, check_options, parse_options
from mrcnn_eval.report.comparison import ComparisonError, read_other_run
from mrcnn_eval.scoring import GroundTruthError, ResultsError

BAD_INPUT = (UsageError, DatasetError, GroundTruthError, ResultsError, ComparisonError, OutputError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; by default those of the process.

    Returns:
        The exit code: 0, 2 on bad input (one line on stderr), 130 when interrupted, 141 if the program that reads the
        output has ended.
    """
    _log_one_line_each()
    return run_piped(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    arguments = parse_options(argv)
    try:
        check_options(arguments)
        _run(arguments)
    except BAD_INPUT as error:
        print(f"mrcnn-eval: error: {visible(error, limit=MAX_MESSAGE)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"mrcnn-eval: error: a path is too long: {visible(error.filename)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mrcnn-eval: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    if arguments.images is not None:
        from mrcnn_eval.command.prediction import predict_pictures

        predict_pictures(arguments)
        return
    from mrcnn_eval.command.scoring import score_checkpoint, score_results_file

    other = None if arguments.compare is None else read_other_run(arguments.compare)  # before hours of inference
    if arguments.results is not None:
        score_results_file(arguments, other)
    else:
        score_checkpoint(arguments, other)


def _log_one_line_each() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("mrcnn-eval: %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


class _OneLine(logging.Formatter):
    """Formats a log record as one line, with text from files escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), limit=MAX_MESSAGE)
