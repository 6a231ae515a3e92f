"""The command: compose the options, then train, or start the processes that train.

Exit codes: 0 success; 1 the loss diverged, or the disk is full; 2 wrong input; 3 another process of the job failed;
130 and 143 stopped by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mrcnn_data import DatasetError, print_any_text, visible
from mrcnn_eval import GroundTruthError, RankError, ResultsError
from mrcnn_train.config.checks import check
from mrcnn_train.config.composition import (
    CONFIG_NAME,
    CONFIG_PATH,
    HYDRA_VERSION_BASE,
    explain,
    is_multirun,
    job_arguments,
    launched_config,
    refuse_dashes,
)
from mrcnn_train.config.options import RunConfig
from mrcnn_train.config.values import asked_processes
from mrcnn_train.errors import EXIT_PEER_LOST, ConfigError, DivergedError, PeerLostError, SaveError
from mrcnn_train.job.distributed import Processes
from mrcnn_train.job.launch import launch, run_job
from mrcnn_train.job.link import follow_launcher
from mrcnn_train.job.place import Place, launched_place
from mrcnn_train.job.signals import INTERRUPTED

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_SIGNAL = 128  # plus the number of the signal


def main(*, preflight: bool = False) -> int:
    """Run the command with the arguments of this process; print a mistake in them as one line on stderr.

    Args:
        preflight: check the hosts and processes of the job instead of training.
    """
    print_any_text()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises exceptions instead of printing long texts
    exit_codes: list[int] = []  # of the jobs: one, or several with --multirun

    @hydra.main(version_base=HYDRA_VERSION_BASE, config_path=CONFIG_PATH, config_name=CONFIG_NAME)
    def run_composed(composed: DictConfig) -> None:
        if any(code > EXIT_SIGNAL for code in exit_codes):
            return  # a signal ends all jobs
        exit_codes.append(_job(composed, preflight=preflight))

    try:
        refuse_dashes(sys.argv[1:])
        run_composed()
    except ConfigError as error:
        return _fail(*error.faults, exit_code=EXIT_BAD_INPUT)
    except (HydraException, OmegaConfBaseException) as error:  # while the config is composed
        return _fail(explain(error), exit_code=EXIT_BAD_INPUT)
    return max(exit_codes, default=0)


def _job(composed: DictConfig, *, preflight: bool) -> int:
    # Everything is caught here, because Hydra adds lines to exceptions that leave its function.
    place = Place()
    follow_launcher()
    try:
        place = launched_place()
        run_or_start = _start_or_check if preflight else _start_or_run
        exit_code = run_or_start(composed, place)
    except ConfigError as error:
        exit_code = _fail(*error.faults, exit_code=EXIT_BAD_INPUT, place=place)
    except (DatasetError, GroundTruthError, ResultsError) as error:
        exit_code = _fail(str(error), exit_code=EXIT_BAD_INPUT, place=place)
    except DivergedError as error:  # on all processes: rank 0 prints it
        exit_code = _fail(str(error) if place.rank == 0 else "", exit_code=EXIT_FAILED, place=place)
    except SaveError as error:
        exit_code = _fail(str(error), exit_code=EXIT_FAILED, place=place)
    except (PeerLostError, RankError) as error:
        exit_code = _fail(str(error), exit_code=EXIT_PEER_LOST, place=place)
    except KeyboardInterrupt:
        exit_code = _fail("interrupted" if place.rank == 0 else "", exit_code=INTERRUPTED, place=place)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            exit_code = _fail(f"a path is too long: {visible(error.filename)}", exit_code=EXIT_BAD_INPUT, place=place)
        elif place.size == 1:
            raise
        else:
            traceback.print_exc()
            exit_code = _fail("the error above ended the job", exit_code=EXIT_FAILED, place=place)
    if exit_code and place.size > 1:
        # Not sys.exit, because Horovod would then wait for processes that have ended.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    return exit_code


def _start_or_run(composed: DictConfig, place: Place) -> int:
    from mrcnn_train.runner import meet, number_of_processes, run

    if place.size > 1:
        if is_multirun():
            raise ConfigError("--multirun starts jobs one by one: give launch.processes instead of using a launcher")
        number_of_processes(composed.launch, place)  # raises before this process waits for the others
        processes = meet(place, bind_cores=composed.distributed.bind_cores, device=composed.device)
        return run(_config_of_rank_0(composed, processes), processes)
    config = launched_config(composed)
    if is_multirun():  # each job gets a process, because TensorFlow keeps memory and settings until its process ends
        return run_job(job_arguments())
    if not config.dry_run and _has_to_start(config):
        return launch(config.launch, _arguments_of_ranks(config))
    return run(config)


def _start_or_check(composed: DictConfig, place: Place) -> int:
    from mrcnn_train.preflight.checking import preflight, probe_hosts
    from mrcnn_train.runner import meet

    if place.size > 1:
        processes = meet(place, bind_cores=composed.distributed.bind_cores, device=composed.device)
        return preflight(_config_of_rank_0(composed, processes, needs_experiment=False), processes)
    config = launched_config(composed, needs_experiment=False)
    if config.launch.hosts is not None:
        probe_hosts(config)
    if _has_to_start(config):
        return launch(config.launch, _arguments_of_ranks(config), module="mrcnn_train.preflight")
    return preflight(config, meet(place))


def _config_of_rank_0(composed: DictConfig, processes: Processes, *, needs_experiment: bool = True) -> RunConfig:
    """Compose the config on rank 0 and send it to the others: only that host needs the directory of a resumed run."""

    def compose() -> RunConfig | None:
        return launched_config(composed, needs_experiment=needs_experiment) if processes.rank == 0 else None

    config = processes.together(compose)
    config = processes.broadcast(config)
    assert config is not None
    return config


def _arguments_of_ranks(config: RunConfig) -> list[str]:
    """Return the arguments of this command, with the device of the run: ranks take it before they get its config."""
    arguments = sys.argv[1:]
    is_given = any(argument.lstrip("+").startswith("device=") for argument in arguments)
    return arguments if is_given else [*arguments, f"device={config.device}"]


def _has_to_start(config: RunConfig) -> bool:
    processes = asked_processes(config.launch)
    if processes == 1 and config.launch.hosts is None:
        return False
    check(config, processes=processes)
    return True


def _fail(*faults: str, exit_code: int, place: Place | None = None) -> int:
    """Print each fault as one line, with the rank of this process; an empty one was printed by another process."""
    who = f"process {place.rank}: " if place is not None and place.size > 1 else ""
    for fault in filter(None, faults):
        line = visible(" ".join(fault.split()), limit=4000)
        print(f"mrcnn_train: error: {who}{line}", file=sys.stderr, flush=True)
    return exit_code
