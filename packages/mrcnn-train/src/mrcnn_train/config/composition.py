"""Turn the command line into a typed config; a mistake gives one line. Only this module and `app` use Hydra."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from mrcnn_data import visible
from mrcnn_model import AUTO_PRECISION
from mrcnn_train.config.going_on import AUTO, PLANNED_GROUPS, newest_run, start_or_go_on
from mrcnn_train.config.options import Options, RunConfig
from mrcnn_train.config.resolving import as_saved, with_absolute_paths
from mrcnn_train.config.saved import load_saved
from mrcnn_train.errors import ConfigError
from mrcnn_train.job.place import launched_place

CONFIG_MODULE = "mrcnn_train.conf"
CONFIG_PATH = f"pkg://{CONFIG_MODULE}"
CONFIG_NAME = "config"
HYDRA_VERSION_BASE = "1.3"  # pinned: the defaults of chdir and of the defaults list depend on it
SAVED_CONFIG = "config.yaml"
# Options and groups that a resumed run keeps: they decide the shapes of the weights and which images a step sees.
FIXED_AT_RESUME = ("model", "run", "train.global_batch", "train.images_per_gpu", "train.seed")
# Options of earlier versions, with the values that are now fixed: a saved config may still hold them.
REMOVED = {"optimizer.lars_trust": 0.001, "optimizer.novograd_beta_2": 0.98}

ConfigStore.instance().store(name="schema", node=RunConfig)


def launched_config(composed: DictConfig, *, needs_experiment: bool = True) -> RunConfig:
    """Turn what Hydra composed for this launch into a RunConfig.

    Args:
        needs_experiment: whether +experiment or resume must be given; a preflight checks machines without them too.

    Raises:
        ConfigError: an option does not exist or cannot change when a run is resumed, or neither an experiment nor a run
            to resume was given.
    """
    hydra_config = HydraConfig.get()
    groups = hydra_config.runtime.choices
    overrides = [one for one in hydra_config.overrides.task if one.lstrip("+~").partition("=")[0] not in groups]
    for override in overrides:
        if override.startswith("~"):
            raise ConfigError(f"{override}: options cannot be removed, only changed")
    options = [override.lstrip("+").partition("=")[0] for override in overrides]
    require_known(options)
    has_experiment = groups.get("experiment") is not None
    _require_one_length(options, minutes=composed.train.minutes)
    if composed.resume == AUTO:
        if not has_experiment:
            raise ConfigError("resume=auto needs the options of a new run too: give +experiment=NAME and run.dir=DIR")
        return _start_or_go_on(composed, options)
    if composed.resume is not None:
        if has_experiment:
            raise ConfigError(f"resume={composed.resume} takes its configuration from that run: leave +experiment out")
        return resumed_config(composed, options)
    if not has_experiment and needs_experiment:
        raise ConfigError(
            f"give +experiment=NAME, with NAME one of {', '.join(known_experiments())}; or resume=RUN_DIR"
        )
    return with_given(typed_config(composed), options)


def with_given(config: RunConfig, options: Sequence[str]) -> RunConfig:
    """Note in a config that plans itself which options of data, model and training were given."""
    if config.auto is not None:
        known = list(option_names(RunConfig))
        config.auto.given = [
            name
            for name in known
            if name.partition(".")[0] in PLANNED_GROUPS
            and any(name == option or name.startswith(f"{option}.") for option in options)
            and not any(other.startswith(f"{name}.") for other in known)
        ]
    return config


def _require_one_length(options: Sequence[str], *, minutes: float | None) -> None:
    """Raise ConfigError if both a time budget and a number of steps or epochs are given."""
    for other in ("train.max_steps", "train.epochs"):
        if other in options and minutes is not None:
            raise ConfigError(
                f"train.minutes={minutes:g} sets the steps, so {other} would not count: give one of them, and "
                "train.minutes=null to train by steps a run that had minutes"
            )


def refuse_dashes(arguments: Sequence[str]) -> None:
    """Raise ConfigError for an option written with dashes: Hydra would take `--experiment` for one of its flags."""
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0].replace("-", "_")
        if argument.startswith("--") and name == "experiment":
            raise ConfigError(f"{argument}: an experiment is chosen by +experiment=NAME")
        if argument.startswith("--") and name in option_names(RunConfig):
            raise ConfigError(f"{argument}: options are written without dashes, {name}=VALUE")


def is_multirun() -> bool:
    """Return whether this is one of the jobs of `--multirun`."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def job_arguments() -> list[str]:
    """Return the arguments of this job: with --multirun, those of one of the jobs."""
    return list(HydraConfig.get().overrides.task)


def require_known(keys: Sequence[str]) -> None:
    """Raise ConfigError for an option that does not exist: Hydra accepts any name that follows a plus."""
    known = set(option_names(RunConfig))
    for key in keys:
        if key not in known:
            raise ConfigError(_unknown_option(key))


def resumed_config(composed: DictConfig, overridden: Sequence[str]) -> RunConfig:
    """Read the config that a run saved, and apply the options given now.

    Args:
        composed: config of this launch.
        overridden: names of the options given now.
    """
    run_dir = newest_run(Path(composed.resume).expanduser(), marked_by=SAVED_CONFIG)
    path = run_dir / SAVED_CONFIG
    if not path.is_file():
        raise ConfigError(f"resume={composed.resume} is not a run directory: {path} does not exist")
    for key in overridden:
        if any(key == fixed or key.startswith(fixed + ".") for fixed in FIXED_AT_RESUME):
            raise ConfigError(
                f"{key} cannot change when a run is resumed (model.weights=RUN_DIR starts a new run from its weights)"
            )
    config = read_config(path)
    for key in overridden:
        if (key, composed.precision) != ("precision", AUTO_PRECISION):  # auto: the run's, as with resume=auto
            OmegaConf.update(config, key, OmegaConf.select(composed, key))
    config.resume = str(run_dir)
    if run_dir != Path(composed.resume).expanduser() and launched_place().rank == 0:
        print(f"resume={visible(composed.resume)}: its newest run is {visible(run_dir, limit=2000)}", flush=True)
    _require_one_length(overridden, minutes=config.train.minutes)
    return typed_config(config)


def _start_or_go_on(composed: DictConfig, options: Sequence[str]) -> RunConfig:
    config = with_absolute_paths(with_given(typed_config(composed), options))
    saved = Path(config.run.dir or "") / SAVED_CONFIG
    fixed = tuple(name for name in FIXED_AT_RESUME if name != "run")
    has_run = config.run.dir is not None and saved.is_file()
    return start_or_go_on(config, typed_config(read_config(saved)) if has_run else None, fixed=fixed)


def read_config(path: Path) -> DictConfig:
    """Read a config that a run saved.

    Raises:
        ConfigError: the file is not a config.
    """
    try:
        saved = load_saved(path)
        notes = drop_removed(saved)
        config = DictConfig(OmegaConf.merge(OmegaConf.structured(RunConfig), saved))
    except Exception as error:  # the YAML reader and OmegaConf raise unrelated types
        raise ConfigError(f"{path} cannot be read: {first_line(error)}") from error
    for note in notes if launched_place().rank == 0 else []:
        print(visible(f"note: {path}: {note}", limit=2000), flush=True)
    return config


def is_saved_config(path: Path) -> bool:
    """Return whether a file is the config of a run, of this version or an earlier one."""
    try:
        saved = load_saved(path)
    except Exception:  # the YAML reader and OmegaConf raise unrelated types
        return False
    return isinstance(saved, DictConfig) and saved.keys() >= {"data", "model", "optimizer", "train"}


def drop_removed(saved: Any) -> list[str]:
    """Delete the options that this version no longer has from a saved config; return a note for each."""
    notes = []
    for key, value in REMOVED.items():
        group, _, name = key.rpartition(".")
        options = OmegaConf.select(saved, group)
        if options is not None and name in options:
            notes.append(f"{key}={options.pop(name)} is ignored: this version always uses {value}")
    return notes


def typed_config(config: DictConfig) -> RunConfig:
    """Resolve interpolations and make the dataclasses.

    Raises:
        ConfigError: an interpolation cannot be resolved.
    """
    _require_root_of_weights(config)
    try:
        typed = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(typed, RunConfig)
    return typed


def _require_root_of_weights(config: DictConfig) -> None:
    """Refuse weights below a data.root that is not set: their path would begin with "None"."""
    written: Any = OmegaConf.to_container(config, resolve=False)
    weights = written["model"]["weights"]
    if written["data"]["root"] is None and "${data.root}" in str(weights):
        raise ConfigError(
            f"model.weights is {weights} and data.root is not set: give data.root=DIR or model.weights=FILE"
        )


def composed_config(experiment: str, options: Mapping[str, Any]) -> RunConfig:
    """Compose the config of an experiment, or of the run that `resume` names, with options, from Python values.

    Raises:
        ConfigError: the experiment or an option does not exist, or a value has the wrong type.
    """
    require_known(list(options))
    try:
        with hydra.initialize_config_module(CONFIG_MODULE, version_base=HYDRA_VERSION_BASE):
            is_new = options.get("resume") is None
            composed = hydra.compose(CONFIG_NAME, overrides=[f"+experiment={experiment}"] if is_new else [])
        for name, value in options.items():
            OmegaConf.update(composed, name, os.fspath(value) if isinstance(value, os.PathLike) else value)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    if is_new:
        _require_one_length(list(options), minutes=composed.train.minutes)
        return with_given(typed_config(composed), list(options))
    return resumed_config(composed, [name for name in options if name != "resume"])


def require_types(config: RunConfig) -> None:
    """Raise ConfigError for an option whose value has the wrong type: Python code may have assigned anything."""
    groups = {f"{name}.": value for name, value in vars(config).items() if isinstance(value, Options)}
    for prefix, options in {**groups, "": config}.items():
        try:
            OmegaConf.structured(options)
        except OmegaConfBaseException as error:
            raise ConfigError(prefix + explain(error)) from error


def config_text(config: RunConfig) -> str:
    """Write a config as YAML for `resumed_config`, without the options that are for this launch only."""
    return OmegaConf.to_yaml(OmegaConf.structured(as_saved(config)))


def known_experiments() -> list[str]:
    """Return the names that +experiment= takes."""
    return sorted(path.stem for path in (Path(__file__).parents[1] / "conf" / "experiment").glob("*.yaml"))


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """Return one line that tells the user what is wrong with the command."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return _missing(error)
    for cause in _causes(error):
        if isinstance(cause, ConfigKeyError | ConfigAttributeError):
            return _unknown_option(_full_key(cause, error))
        if isinstance(cause, OmegaConfBaseException):
            key = _full_key(cause, error)
            return f"{key}: {first_line(cause)}" if key else first_line(cause)
    if isinstance(error, OverrideParseException):
        return f"{first_line(error)}: expected option=value, quoted where the value has special characters"
    match = re.match(r"Could not override '([^']+)'\.? ?\n?No match in the defaults list", str(error))
    if match:
        return f"{match[1]} is chosen with a plus: +{match[1]}=NAME"
    return first_line(error)


def _missing(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if group != "experiment":
        return first_line(error)
    known = known_experiments()
    return f"unknown experiment {name!r}{_did_you_mean(name, known)}; known: {', '.join(known)}"


def _unknown_option(key: str) -> str:
    known = list(option_names(RunConfig))
    if key == "model.num_classes":
        return "model.num_classes comes from the data: leave it out"
    return f"unknown option {key!r}{_did_you_mean(key, known)}"


def option_names(schema: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all options, and of their groups."""
    hints = typing.get_type_hints(schema)
    for option in dataclasses.fields(schema):
        yield prefix + option.name
        for kind in (hints[option.name], *typing.get_args(hints[option.name])):  # X, and X of X | None
            if dataclasses.is_dataclass(kind):
                yield from option_names(kind, f"{prefix}{option.name}.")


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a hint with the nearest known name; an option of the same name in another group is preferred."""
    leaf = name.rpartition(".")[2]
    by_leaf = [option for option in known if option.rpartition(".")[2] == leaf]
    group = name.rpartition(".")[0]
    siblings = [option for option in known if group and option.startswith(group + ".")]
    nearest = by_leaf[:1] or difflib.get_close_matches(name, siblings or known, n=1, cutoff=0.0)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _full_key(cause: OmegaConfBaseException, error: BaseException) -> str:
    """Return the option that was typed, from Hydra's message if it is there, else from OmegaConf's."""
    match = re.search(
        r"(?:Could not override|Could not append to config\. .*? to|Error merging override) '?\+?([\w.]+)", str(error)
    )
    failed = cause.full_key or ""
    typed = match[1] if match else ""
    return failed if failed.startswith(typed) else typed


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type if there is none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
