"""Plan a run from its data and machine: `+experiment=auto`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from mrcnn_data import visible
from mrcnn_model import CPU, CheckpointError, ModelConfig, import_tensorflow_quietly, read_card, resolve_checkpoint
from mrcnn_train.config.checks import check
from mrcnn_train.config.options import RunConfig
from mrcnn_train.config.plan import plan_line
from mrcnn_train.config.values import option_value, with_values
from mrcnn_train.errors import ConfigError
from mrcnn_train.job.distributed import Processes
from mrcnn_train.planning.rules import AS_WEIGHTS, Choice, Wanted, choose
from mrcnn_train.planning.survey import DataFacts, Machine, survey_data, survey_machine
from mrcnn_train.record.run_files import write_run_file
from mrcnn_train.training.datasets import open_train, open_val

if TYPE_CHECKING:
    from mrcnn_model import Device

PLAN_FILE = "plan.yaml"
NOT_OF_NETWORK = ("detections_per_image", "score_threshold", "detection_nms_threshold")  # change no weight


class AutoPlan(NamedTuple):
    """What was chosen, and from what.

    Attributes:
        choices: of the rules.
        given: options of the user, by name.
    """

    data: DataFacts
    machine: Machine
    rules: Sequence[str]
    choices: Sequence[Choice]
    given: Mapping[str, Any]

    def lines(self) -> list[str]:
        """Return a line for each option, with its reason."""
        chosen = [f"{one.option}={_written(one.value)}: {one.reason}" for one in self.choices]
        given = [f"{name}={_written(value)}: given" for name, value in self.given.items()]
        return [plan_line("auto", visible(line, limit=2000)) for line in chosen + given]

    def yaml(self) -> str:
        """Return the content of plan.yaml."""
        content = {
            "data": _plain(self.data._asdict()),
            "machine": _plain(self.machine._asdict()),
            "rules": list(self.rules),
            "choices": [_plain(one._asdict()) for one in self.choices],
            "given": _plain(dict(self.given)),
        }
        return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def plan_auto(config: RunConfig, processes: Processes) -> tuple[RunConfig, AutoPlan | None]:
    """Choose the options that `auto` leaves open, on rank 0 for all processes, and print them with their reasons.

    Returns:
        The config to train by, without `auto`: a resumed run is not planned again. The plan; None without `auto`.

    Raises:
        ConfigError, DatasetError: the data cannot be used, or a given option cannot work with the chosen ones.
    """
    if config.auto is None:
        return config, None
    is_first_rank = processes.rank == 0
    data = processes.together(lambda: _survey(config) if is_first_rank else None)
    import_tensorflow_quietly()
    devices = processes.devices(config.device)

    def on_rank_0() -> tuple[RunConfig, AutoPlan] | None:
        return None if data is None else _planned(config, data, devices)

    planned = processes.broadcast(processes.together(on_rank_0))
    assert planned is not None
    planned[0].freeze()
    return planned


def write_auto_plan(run_dir: Path, plan: AutoPlan) -> None:
    """Write plan.yaml."""
    write_run_file(run_dir / PLAN_FILE, plan.yaml())


def _survey(config: RunConfig) -> DataFacts:
    train = open_train(config.data)
    return survey_data(train, [one.dataset for one in open_val(config.data, train)])


def _planned(config: RunConfig, data: DataFacts, devices: Sequence[Device]) -> tuple[RunConfig, AutoPlan]:
    assert config.auto is not None
    machine = survey_machine([device.name for device in devices if device.name != CPU])
    given = {name: option_value(config, name) for name in config.auto.given}
    wanted = Wanted(
        given=given,
        rules=tuple(config.auto.rules),
        network=_network_of(config.model.weights),
        minutes=config.train.minutes,
        processes=len(devices),
    )
    choices = [
        one
        for one in choose(data, machine, wanted)
        if one.reason != AS_WEIGHTS or one.value != option_value(config, one.option)  # a network has sixty options
    ]
    plan = AutoPlan(data, machine, wanted.rules, choices, given)
    planned = with_values(config, {one.option: one.value for one in plan.choices} | {"auto": None})
    for line in plan.lines():
        print(line, flush=True)
    check(planned, processes=len(devices))
    return planned, plan


def _network_of(weights: str | None) -> dict[str, Any] | None:
    """Return the options of the network that given weights belong to; None without weights.

    Those of a checkpoint are in it; files are taken for weights of the default network, R50-FPN.
    """
    if weights is None:
        return None
    try:
        model = read_card(resolve_checkpoint(weights))[0] if Path(weights).is_dir() else ModelConfig(num_classes=2)
    except CheckpointError as error:
        raise ConfigError(f"model.weights: {error}") from error
    values = model.to_flat()
    return {f.name: values[f.name] for f in ModelConfig.options() if f.name not in NOT_OF_NETWORK}


def _written(value: Any) -> str:
    return str(value).replace(" ", "") if isinstance(value, list) else str(value)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Turn tuples and groups of options into what YAML has."""
    return {
        name: list(value)
        if isinstance(value, tuple)
        else _plain(dataclasses.asdict(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
        for name, value in values.items()
    }
