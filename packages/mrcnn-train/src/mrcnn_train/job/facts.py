"""Facts about the machine and the software of a process, for `environment.json` and for the preflight.

This module does not import TensorFlow.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

OWN_PACKAGES = ("mrcnn-data", "mrcnn-ops", "mrcnn-model", "mrcnn-eval", "mrcnn-train")

# Variables that change what a run does. Only these names are written to files, so that no token or key is.
VARIABLES = re.compile(
    r"(CUDA_(VISIBLE_DEVICES|CACHE_PATH|CACHE_MAXSIZE|LAUNCH_BLOCKING|DEVICE_ORDER)|NVIDIA_VISIBLE_DEVICES|OMP_NUM_THREADS"
    r"|(TF|XLA|ONEDNN|DNNL|NCCL|FI|HOROVOD|GLOO)_[A-Z0-9_]+|OMPI_MCA_[a-z0-9_]+|OMPI_COMM_WORLD_[A-Z_]*(RANK|SIZE)"
    r"|PMIX?_(RANK|SIZE)|SLURM_(JOB_ID|JOB_NUM_NODES|JOB_NODELIST|NTASKS|PROCID|LOCALID|NODEID|RESTART_COUNT"
    r"|CPUS_PER_TASK|GPUS_ON_NODE)|SM_(HOSTS|CURRENT_HOST|NUM_GPUS)|LD_LIBRARY_PATH|PYTHONPATH|PYTHONHASHSEED)"
)
SECRET = re.compile(r"(SECRET|TOKEN|PASSWORD|CREDENTIAL|ACCESS_KEY|API_KEY|PRIVATE)", re.IGNORECASE)


class Gpus(NamedTuple):
    """The GPUs that the driver shows, and its version; without a driver, empty lists and None."""

    models: list[str]
    pci_ids: list[str]  # as in sysfs, "0000:3b:00.0"
    driver: str | None


def host_facts() -> dict[str, Any]:
    """Describe this machine: name, processor, cores, memory in GiB, GPUs, driver and system."""
    gpus = read_gpus()
    return {
        "host": socket.gethostname(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus.models,
        "driver": gpus.driver,
        "system": platform.platform(),
    }


def software_facts() -> dict[str, Any]:
    """Describe the software: the versions of Python and all packages, and the commit of our five packages."""
    versions = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    own = {name: versions.get(name, "not installed") for name in OWN_PACKAGES}
    others = {name: versions[name] for name in sorted(versions, key=str.lower) if name not in own}
    return {"python": sys.version.split()[0], "own_packages": own, **git_facts(), "packages": others}


def git_facts(folder: Path = Path(__file__).parent) -> dict[str, Any]:
    """Return the commit of the checkout that holds `folder`, and whether tracked files differ from it.

    Returns:
        {"git_commit": str or None, "git_dirty": bool or None}; None if this file is not tracked by a checkout.
    """
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    tracked = _output("git", "-C", str(folder), "ls-files", "--error-unmatch", __file__)
    if not commit or tracked is None:  # perhaps installed in an environment below another project's checkout
        return {"git_commit": None, "git_dirty": None}
    changed = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit, "git_dirty": changed != ""}


def environment_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that change what a run does, without those whose name or value has a word like TOKEN."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if VARIABLES.fullmatch(name) and not SECRET.search(name) and not SECRET.search(value)
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the processor."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def read_gpus() -> Gpus:
    """Return the GPUs that nvidia-smi lists."""
    listed = _output("nvidia-smi", "--query-gpu=driver_version,pci.bus_id,name", "--format=csv,noheader")
    rows = [line.split(",", 2) for line in (listed or "").splitlines() if line.count(",") >= 2]
    return Gpus(
        models=[name.strip() for _, _, name in rows],
        pci_ids=[pci_id.strip().lower()[-12:] for _, pci_id, _ in rows],  # the driver writes the domain in 8 digits
        driver=rows[0][0].strip() if rows else None,
    )


def gpu_memories() -> list[float]:
    """Return the memory of each GPU that nvidia-smi lists, in GiB."""
    listed = _output("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits") or ""
    return [round(int(line) / 1024, 1) for line in listed.split() if line.isdigit()]


def _output(*command: str) -> str | None:
    """Return what a command prints; None if it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
