"""Decide from numbers alone what is due after a step."""

from __future__ import annotations

from typing import NamedTuple

from mrcnn_train.config.options import RunConfig
from mrcnn_train.config.plan import Plan
from mrcnn_train.config.schedule import crosses


class Cadence(NamedTuple):
    """How often a run logs, saves and evaluates.

    Attributes:
        total_steps: number of steps of the run; after the last one it saves and evaluates.
        log_steps: steps from one log line to the next.
        save_steps: steps from one checkpoint to the next; None: steps do not decide.
        save_epochs: epochs from one checkpoint to the next; None: epochs do not decide.
        evaluates: whether there is a validation set.
        evaluate_epochs: epochs from one evaluation to the next; None: epochs do not decide.
        evaluate_steps: updates after which the run evaluates, besides the last one.
    """

    total_steps: int
    log_steps: int
    save_steps: int | None
    save_epochs: float | None
    evaluates: bool
    evaluate_epochs: float | None
    evaluate_steps: tuple[int, ...] = ()


class Due(NamedTuple):
    """What to do after a step, in this order.

    Attributes:
        log: fetch the numbers from the device and show them.
        log_epoch: write the throughput of the epoch that has ended.
        save: write a checkpoint.
        evaluate: evaluate the saved weights.
        stop: end the loop.
    """

    log: bool
    log_epoch: bool
    save: bool
    evaluate: bool
    stop: bool


def make_cadence(config: RunConfig, plan: Plan, *, evaluates: bool) -> Cadence:
    """Read the cadence of a run from its options."""
    return Cadence(
        total_steps=plan.total_steps,
        log_steps=config.log.every,
        save_steps=config.checkpoint.every_steps,
        save_epochs=config.checkpoint.every_epochs,
        evaluates=evaluates,
        evaluate_epochs=None if config.train.minutes is not None else config.eval.every_epochs,
        evaluate_steps=plan.evaluate_steps,
    )


def what_is_due(
    done: int, cadence: Cadence, *, epoch_before: float, epoch_after: float, is_first: bool, has_to_stop: bool
) -> Due:
    """Decide what is due after `done` steps.

    Args:
        epoch_before, epoch_after: position in epochs before and after the step.
        is_first: whether it is the first step since the start or the resume.
        has_to_stop: whether a signal or a reached target ends the run here; it then saves, but does not evaluate.
    """
    is_last = done == cadence.total_steps
    evaluate = (
        cadence.evaluates
        and not has_to_stop
        and (is_last or done in cadence.evaluate_steps or crosses(cadence.evaluate_epochs, epoch_before, epoch_after))
    )
    save = (
        is_last
        or has_to_stop
        or evaluate
        or crosses(cadence.save_epochs, epoch_before, epoch_after)
        or (cadence.save_steps is not None and done % cadence.save_steps == 0)
    )
    return Due(
        log=save or is_first or done % cadence.log_steps == 0,  # logging before saving checks that losses are finite
        log_epoch=crosses(1.0, epoch_before, epoch_after),
        save=save,
        evaluate=evaluate,
        stop=is_last or has_to_stop,
    )


def is_evaluation_due(done: int, cadence: Cadence, *, epoch_before: float, epoch_after: float) -> bool:
    """Return whether an evaluation was due when a run was stopped after `done` steps."""
    if done == 0:
        return False
    return what_is_due(
        done, cadence, epoch_before=epoch_before, epoch_after=epoch_after, is_first=False, has_to_stop=False
    ).evaluate
