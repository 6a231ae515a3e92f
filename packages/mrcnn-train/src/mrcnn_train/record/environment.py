"""Write `environment.json` into the run directory: command, software, machines and variables of each launch.

The file is a list; a resumed run appends an entry.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn_train.job.facts import environment_variables, host_facts, software_facts
from mrcnn_train.job.place import Place
from mrcnn_train.record.run_files import write_run_file

ENVIRONMENT_FILE = "environment.json"


def process_facts(place: Place) -> dict[str, Any]:
    """Describe this process: its rank, its machine, and the variables that change what it does."""
    return {"rank": place.rank, **host_facts(), "environment": environment_variables()}


def write_environment(run_dir: Path, processes: Sequence[dict[str, Any]]) -> None:
    """Append this launch to `environment.json`.

    Args:
        processes: `process_facts` of all ranks, by rank.
    """
    path = run_dir / ENVIRONMENT_FILE
    launch = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [sys.executable, *sys.orig_argv[1:]],
        "folder": os.getcwd(),
        "processes": len(processes),
        **software_facts(),
        "hosts": _by_host(processes),
    }
    launches = [*read_launches(path), launch]
    write_run_file(path, json.dumps(launches, indent=1))


def read_launches(path: Path) -> list[dict[str, Any]]:
    """Read the launches in `environment.json`; an empty list if the file is missing or damaged."""
    try:
        launches = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return launches if isinstance(launches, list) else []


def _by_host(processes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return an entry for each host: the facts of its first process, and the ranks of all its processes.

    `environment` has the variables that are equal in all processes of the host, `environment_by_rank` the others.
    """
    hosts: dict[str, list[dict[str, Any]]] = {}
    for facts in processes:
        hosts.setdefault(facts["host"], []).append(facts)
    return [_describe_host(of_host) for of_host in hosts.values()]


def _describe_host(processes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = processes[0]
    common = dict(sorted(set.intersection(*(set(facts["environment"].items()) for facts in processes))))
    by_rank = {
        str(facts["rank"]): {name: value for name, value in facts["environment"].items() if name not in common}
        for facts in processes
    }
    host = {key: value for key, value in first.items() if key != "rank"}
    host |= {"environment": common, "ranks": [facts["rank"] for facts in processes]}
    return host | ({"environment_by_rank": by_rank} if any(by_rank.values()) else {})
