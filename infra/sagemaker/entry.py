"""The program of a SageMaker training container, one per host. The first host starts all ranks by mpirun.

Options arrive as hyperparameters in `/opt/ml/input/config/hyperparameters.json`, or as `--key value` arguments;
mrcnn_train gets them as `key=value`. The run directory is `/opt/ml/checkpoints/run`. SageMaker copies
`/opt/ml/checkpoints` to S3 while the job runs, and back when a spot job starts again; `resume=auto` then continues.

The hosts connect to a TCP port of the first one, and stay connected until the job ends. Over this connection the others
get the public half of a key made for this job, report that their ssh server runs, and at the end get the exit code.
SIGTERM (120 s before SIGKILL) is passed to the ranks of the host. One rank is enough: all ranks then save and end after
the same step.

The image's ENTRYPOINT is `python -m infra.sagemaker.entry`; it needs the standard library and an ssh server.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.sagemaker.hosts import SSH_PORT, Cluster, EntryError, Stop, dismiss, follow, make_key, meet

ML = Path(os.environ.get("MRCNN_OPT_ML", "/opt/ml"))
# Variables that ranks get: names, never tokens or keys.
RANK_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "FI_PROVIDER", "NCCL_DEBUG")
# Options that this script sets; the job must not give them.
OWN_OPTIONS = ("run.dir", "resume", "launch.processes", "launch.hosts")


def run_dir(ml: Path) -> Path:
    """Return the run directory, which lies in the folder that SageMaker copies to S3."""
    return ml / "checkpoints" / "run"


def read_cluster(ml: Path) -> Cluster:
    """Read which hosts the job has; only this one if there is no file.

    Raises:
        EntryError: the file is not as SageMaker writes it.
    """
    path = ml / "input" / "config" / "resourceconfig.json"
    if not path.exists():
        return Cluster("localhost", ["localhost"], "lo")
    config = _read_json(path)
    try:
        cluster = Cluster(config["current_host"], sorted(config["hosts"]), config.get("network_interface_name", "eth0"))
    except (KeyError, TypeError) as error:
        raise EntryError(f"{path}: {error} is missing or wrong") from error
    if cluster.current not in cluster.hosts:
        raise EntryError(f"{path}: current_host {cluster.current} is not one of the hosts {', '.join(cluster.hosts)}")
    return cluster


def read_overrides(ml: Path, arguments: Sequence[str] = ()) -> list[str]:
    """Return the options of the job as mrcnn_train reads them.

    Args:
        arguments: those of the container: `train`, which SageMaker passes to every image, or pairs `--key value`, which
            replace the hyperparameters of the file.

    Raises:
        EntryError: an argument is neither of these, there is no experiment, or an option is one that this script sets.
    """
    path = ml / "input" / "config" / "hyperparameters.json"
    arguments = [argument for argument in arguments if argument != "train"]
    pairs = _pairs(arguments) if arguments else list((_read_json(path) if path.exists() else {}).items())
    overrides = [_override(key, value) for key, value in pairs if not key.startswith("sagemaker_")]
    names = [override.lstrip("+~").partition("=")[0] for override in overrides]
    for name in OWN_OPTIONS:
        if name in names:
            raise EntryError(f"hyperparameter {name} is set by infra/sagemaker/entry.py: leave it out")
    if "experiment" not in names:
        raise EntryError("hyperparameter +experiment is missing: give the name of a recipe, like 32x4_24ep")
    channel = ml / "input" / "data" / "training"
    if "data.root" not in names and channel.is_dir():
        overrides.append(f"data.root={channel}")
    return [*overrides, f"run.dir={run_dir(ml)}", "resume=auto"]


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    rest = list(arguments)
    while rest:
        key = rest.pop(0)
        if not key.startswith("--"):
            raise EntryError(f"argument {key!r}: expected --key value")
        name, equals, value = key[2:].partition("=")
        if not equals:
            if not rest:
                raise EntryError(f"argument {key} has no value")
            value = rest.pop(0)
        pairs.append((name, value))
    return pairs


def _override(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    # Some clients send text as JSON, in quotes.
    if len(text) > 1 and text[0] == text[-1] == '"':
        with contextlib.suppress(ValueError):
            text = str(json.loads(text))
    if key.startswith("~") and not text:
        return key
    return f"+experiment={text}" if key == "experiment" else f"{key}={text}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EntryError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise EntryError(f"{path} is not a JSON object")
    return content


def processes_per_host(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """Return the number of GPUs of this host, or 1 if it has none, for a trial on CPUs."""
    told = environment.get("SM_NUM_GPUS", "")
    count = int(told) if told.isdigit() else sum(path.name[6:].isdigit() for path in devices.glob("nvidia[0-9]*"))
    return max(count, 1)


def mpirun_command(cluster: Cluster, *, slots: int, keys: Path, environment: Mapping[str, str]) -> list[str]:
    """Return the command that starts the ranks, to which the program that they run is appended.

    Args:
        slots: ranks on each host.
        keys: folder with `id` and `known_hosts`.
    """
    ssh = f"-p {SSH_PORT} -i {keys / 'id'} -o UserKnownHostsFile={keys / 'known_hosts'} -o ConnectionAttempts=10"
    command = [shutil.which("mpirun") or "mpirun", "--allow-run-as-root"]
    command += ["--host", ",".join(f"{host}:{slots}" for host in cluster.hosts), "-np", str(len(cluster.hosts) * slots)]
    command += ["--map-by", "slot", "--bind-to", "none", "--mca", "pml", "ob1", "--mca", "btl", "^openib"]
    command += ["--mca", "btl_tcp_if_include", cluster.interface, "--mca", "oob_tcp_if_include", cluster.interface]
    command += ["--mca", "plm_rsh_args", ssh, "-x", f"NCCL_SOCKET_IFNAME={cluster.interface}"]
    for name in RANK_ENVIRONMENT:
        if name in environment:
            command += ["-x", name]
    return command


def run(command: Sequence[str], stop: Stop) -> int:
    """Run a command; return its exit code, 143 if it failed after SIGTERM, or 128 + signal if a signal ended it."""
    if stop.received:
        return 143
    process = subprocess.Popen(command)
    while True:
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            if stop.received:
                stop.pass_on()  # to ranks that had not started when the signal came
            continue
        if code and stop.received:
            return 143
        return code if code >= 0 else 128 - code


def lead(cluster: Cluster, overrides: Sequence[str], stop: Stop) -> int:
    """Wait for all hosts, run the preflight and the training on them, and send them the exit code."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        keys = Path(folder)
        make_key(keys / "id")
        others = set(cluster.hosts[1:])
        links = meet(others, (keys / "id.pub").read_text(), keys / "known_hosts", stack, stop) if others else []
        command = mpirun_command(cluster, slots=processes_per_host(os.environ), keys=keys, environment=os.environ)
        start = [*command, sys.executable, "-m"]
        code = 143 if stop.received else run([*start, "mrcnn_train.preflight", *overrides], stop)
        if code == 0:
            code = run([*start, "mrcnn_train", *overrides], stop)
        elif code != 143:
            print("entry.py: the preflight failed, see above", file=sys.stderr)
        dismiss(links, code)
    return code


def save_model(ml: Path) -> None:
    """Copy the best checkpoint's model to `/opt/ml/model`, which SageMaker packs and uploads at the end of the job."""
    checkpoints = run_dir(ml) / "checkpoints"
    best = checkpoints / "best"
    names = [best.read_text().strip()] if best.is_file() else sorted(path.name for path in checkpoints.glob("step-*"))
    (ml / "model").mkdir(parents=True, exist_ok=True)
    for file in ("model.safetensors", "model.json") if names else ():
        shutil.copyfile(checkpoints / names[-1] / file, ml / "model" / file)


def main(arguments: Sequence[str] | None = None, ml: Path = ML) -> int:
    """Run the part of this host, and return the exit code of the job."""
    stop = Stop(run_dir(ml))
    try:
        cluster = read_cluster(ml)
        overrides = read_overrides(ml, sys.argv[1:] if arguments is None else arguments)
        code = lead(cluster, overrides, stop) if cluster.leads else follow(cluster, stop)
        if code == 0 and cluster.leads:
            save_model(ml)
        reason = f"mrcnn_train ended with exit code {code}, see the log"
    except (EntryError, OSError, KeyError, ValueError) as error:
        code, reason = (143 if stop.received else 2), f"entry.py: {error}"
        print(reason, file=sys.stderr)
    if code:
        (ml / "output").mkdir(parents=True, exist_ok=True)
        (ml / "output" / "failure").write_text(reason + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
