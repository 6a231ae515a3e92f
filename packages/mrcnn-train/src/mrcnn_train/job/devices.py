"""Which cores and which GPU a process of the job takes."""

from __future__ import annotations

import os

from mrcnn_train.errors import ConfigError
from mrcnn_train.job.place import Place


def limit_to_local_cpus(place: Place) -> None:
    """Give each process of a machine its share of the cores, unless the launcher has bound it already.

    The share is a row of neighbours: they share a cache and, on most machines, the memory next to one GPU.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    per_process = len(allowed) // place.local_size
    if len(allowed) < (os.cpu_count() or 1) or per_process == 0:
        return
    start = place.local_rank * per_process
    os.sched_setaffinity(0, allowed[start : start + per_process])


def use_own_gpu(place: Place) -> None:
    """Give this process the GPU of its local rank, if there is one, and let its memory grow as needed.

    Raises:
        ConfigError: there are fewer GPUs than processes.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if place.size > 1 and gpus:
        if place.local_size > len(gpus):
            raise ConfigError(
                f"{place.local_size} processes on a machine with {len(gpus)} GPUs: start one process for each GPU"
            )
        gpus = [gpus[place.local_rank]]
        tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
