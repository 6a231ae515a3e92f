"""Check the hosts of a job before it starts: `python -m mrcnn_train.preflight`, with the options of the run.

With `launch.hosts`, a probe runs on each host by ssh first: it reports software, data, GPUs and free disk space, and
which other hosts it cannot reach. The processes start only if all is well. Under another launcher, the processes
compare the same facts. At the end all processes average a buffer as large as the gradients of ResNet-50-FPN, and the
bandwidth is printed.

Exit codes: 0; 2 something is wrong, and the message names every fault; 3 a process was lost.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn_data import find_split, visible
from mrcnn_model import import_tensorflow_quietly
from mrcnn_train.config.options import DataOptions, RunConfig
from mrcnn_train.config.values import as_list
from mrcnn_train.errors import ConfigError
from mrcnn_train.job.devices import describe_devices
from mrcnn_train.job.distributed import Processes
from mrcnn_train.job.hosts import Host, Ssh, addresses_of, complaints, is_local, parse_hosts, start
from mrcnn_train.job.launch import meeting_points, passed_variables
from mrcnn_train.preflight.comparison import differences, shortcomings
from mrcnn_train.preflight.probe import facts, read_answer

GRADIENT_BYTES = 176_000_000  # of ResNet-50-FPN in float32
REPEATS = 3


def probe_hosts(config: RunConfig) -> None:
    """Collect the facts of each host of `launch.hosts`, print and compare them.

    Raises:
        ConfigError: something is wrong; the text has a line for each fault.
    """
    hosts = parse_hosts(config.launch.hosts or [])
    ssh = Ssh(config.launch.ssh_port, config.launch.ssh_key)
    addresses = addresses_of(hosts, ssh)
    own = [is_local(address) for address in addresses]
    faults = complaints([host for host, local in zip(hosts, own, strict=True) if not local], ssh)
    if faults:
        raise ConfigError(*faults)
    arguments = ["-m", "mrcnn_train.preflight.probe", output_folder(config), *data_paths(config.data)]
    folder = str(Path.cwd())
    points = meeting_points(addresses, own, interface=config.launch.interface)
    passed = passed_variables(os.environ, also=config.launch.environment or [])
    probes = [
        start(host, ssh, arguments=arguments, environment=passed, folder=folder, local=local, read=True)
        for host, local in zip(hosts, own, strict=True)
    ]
    try:
        answers = [_answer(host, probe) for host, probe in zip(hosts, probes, strict=True)]
        peers = [
            (host.name, point if local else address, answer["port"])  # this host's name may mean its loopback
            for host, local, point, address, answer in zip(hosts, own, points, addresses, answers, strict=True)
        ]
        for probe in probes:
            assert probe.stdin is not None
            probe.stdin.write(json.dumps(peers).encode() + b"\n")
            probe.stdin.flush()
        for host, probe, answer in zip(hosts, probes, answers, strict=True):
            answer["host"] = host.name
            answer["unreached"] = _answer(host, probe)["unreached"]
    finally:
        for probe in probes:
            assert probe.stdin is not None
            probe.stdin.close()
    report(answers)


def report(answers: Sequence[dict[str, Any]]) -> None:
    """Print the facts of each host.

    Raises:
        ConfigError: something is wrong; the text has a line for each fault.
    """
    for answer in answers:
        gpus = f"{len(answer['gpus'])} x {answer['gpus'][0]}, driver {answer['driver']}" if answer["gpus"] else "no GPU"
        print(
            f"{answer['host'] + ':':17} {answer['cores_allowed']} cores ({answer['cpu']}), {answer['memory_gib']} GiB, "
            f"{gpus}, {answer['free_gib']} GiB free",
            flush=True,
        )
    faults = [*shortcomings(answers), *differences(answers)]
    faults += [
        f"host {answer['host']}: no connection to {name}: are the ports between the hosts open?"
        for answer in answers
        for name in answer.get("unreached", [])
    ]
    if faults:
        raise ConfigError(*faults)


def compare_ranks(config: RunConfig, processes: Processes) -> int:
    """Compare the hosts of a running job, as `probe_hosts` does before the processes start; return their number.

    Raises:
        ConfigError: on rank 0, with a line for each fault.
        PeerLostError: on the other ranks.
    """
    own = facts(output_folder(config), data_paths(config.data)) if processes.place.local_rank == 0 else None
    gathered = [one for one in processes.gather(own) if one is not None]
    processes.together(lambda: report(gathered) if processes.rank == 0 else None)
    return len(gathered)


def measure_exchange(processes: Processes) -> float:
    """Average a buffer of `GRADIENT_BYTES` over the processes, and return the bandwidth of a process in GB/s.

    The bandwidth is what each process of a ring sends, 2 (n - 1) / n of the buffer, divided by the median time.

    Raises:
        ConfigError: the average is wrong.
    """
    import numpy as np
    import tensorflow as tf

    buffer = tf.ones([GRADIENT_BYTES // 4], tf.float32) * (processes.rank + 1)
    expected = (processes.size + 1) / 2
    seconds = []
    for turn in range(REPEATS + 1):
        processes.barrier()
        began = time.perf_counter()
        mean = processes.mean(buffer, name="preflight")
        value = float(mean[-1])
        seconds.append(time.perf_counter() - began)
        if abs(value - expected) > 1e-5 * expected:
            raise ConfigError(
                f"the exchange between {processes.size} processes is wrong: their mean is {value}, expected {expected} "
                f"(exchange {turn + 1} of {REPEATS + 1})"
            )
    moved = 2 * (processes.size - 1) / processes.size * GRADIENT_BYTES
    return moved / float(np.median(seconds[1:])) / 1e9


def preflight(config: RunConfig, processes: Processes) -> int:
    """Check a job whose processes have started, print what was found, and return the exit code."""
    hosts = compare_ranks(config, processes)
    import_tensorflow_quietly()
    devices = describe_devices(processes.devices(config.device))
    speed = measure_exchange(processes)
    if processes.rank == 0:
        print(f"{'device:':17} {visible(devices)}")
        print(f"{'processes:':17} {processes.size} on {hosts} hosts")
        if processes.size > 1:
            print(f"{'exchange:':17} {GRADIENT_BYTES / 1e6:.0f} MB at {speed:.2f} GB/s per process")
        print("preflight passed", flush=True)
    return 0


def data_paths(data: DataOptions) -> list[str]:
    """Return a flat list: annotation file and image folder of each data set, without synthetic data."""
    paths: list[str] = []
    if data.synthetic is not None:
        return paths
    for files, folders, splits in (
        (data.train_annotations, data.train_images, data.train),
        (data.val_annotations, data.val_images, data.val),
    ):
        if files is not None:
            for file, folder in zip(as_list(files), as_list(folders), strict=True):
                paths += [file, folder]
        elif data.root is not None:
            for source in (find_split(data.root, split) for split in as_list(splits)):
                paths += [str(source.annotation_path), str(source.image_dir)]
    return paths


def output_folder(config: RunConfig) -> str:
    """Return the folder that the run will write to."""
    return config.run.dir or "outputs"


def _answer(host: Host, probe: Any) -> dict[str, Any]:
    answer = read_answer(line.decode(errors="replace") for line in probe.stdout)
    if answer is None:
        raise ConfigError(f"host {host.name}: the probe ended early (exit code {probe.wait()}); its error is above")
    return answer
