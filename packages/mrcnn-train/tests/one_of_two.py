"""What one process of a job of two does in test_ranks.py: `one_of_two.py TASK OVERRIDES...`.

`compare` trains on exchanged gradients and on its own and compares; `wire` sends float16; the other tasks are the
command with a fault.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

import hydra
import keras
import numpy as np
import tensorflow as tf

from mrcnn_data import Batch
from mrcnn_model import MaskRCNN, build_model
from mrcnn_train import RunConfig, loop
from mrcnn_train.app import main
from mrcnn_train.composition import typed_config
from mrcnn_train.config import model_config
from mrcnn_train.data import make_loader, open_train
from mrcnn_train.distributed import Processes, connect
from mrcnn_train.evaluation import Evaluation
from mrcnn_train.optimizer import Optimizer, Sgd
from mrcnn_train.place import launched_place
from mrcnn_train.step import TrainStep

STEPS = 5
BOUND = 1e-5
# A value that rounding pushes over a kink (of a ReLU, a maximum) changes the gradient by 1e-4 of its norm. It happens in
# one of some steps, to a single process whose weights are off by 1e-7 too; a wrong exchange shows whatever the weights.
SEEDS = (3, 4, 5)


class Contestant:
    """A tiny model that trains on some of the batches of each step."""

    def __init__(self, config: RunConfig, processes: Processes, *, micro_batches: int, wire: str | None = None) -> None:
        self._config = config
        self.model: MaskRCNN = build_model(
            model_config(config.model, num_classes=7), mean_over_processes=processes.mean_in_order
        )
        self.optimizer = Optimizer(
            self.model.trainable_variables,
            rule=Sgd(momentum=0.9),
            decayed=self.model.decayed_variables,
            weight_decay=1e-4,
            clip_norm=5.0,
        )
        self.step = TrainStep(self.model, self.optimizer, micro_batches=micro_batches, processes=processes, wire=wire)
        self.begin(SEEDS[0])

    def begin(self, seed: int) -> None:
        """Take fresh weights, without compiling again."""
        keras.utils.set_random_seed(seed)
        fresh = build_model(model_config(self._config.model, num_classes=7))
        for variable, value in zip(self.model.variables, fresh.variables, strict=True):
            variable.assign(value)
        for momentum in self.optimizer.slots["momentum"]:
            momentum.assign(tf.zeros_like(momentum))

    def weights(self) -> list[np.ndarray]:
        return [v.numpy() for v in self.model.variables]

    def momenta(self) -> list[np.ndarray]:
        return [v.numpy() for v in self.optimizer.slots["momentum"]]


def joined(batches: Sequence[Batch]) -> Batch:
    return Batch(
        *(
            [image_id for ids in values for image_id in ids] if name == "image_ids" else np.concatenate(values)
            for name, values in zip(Batch._fields, zip(*batches, strict=True), strict=True)
        )
    )


def furthest(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def composed(overrides: Sequence[str]) -> RunConfig:
    with hydra.initialize_config_module("mrcnn_train.conf", version_base="1.3"):
        return typed_config(hydra.compose("config", overrides=[*overrides, "train.global_batch=4"]))


def require_equal_on_all(processes: Processes, arrays: Sequence[np.ndarray]) -> None:
    assert len(set(processes.gather(b"".join(array.tobytes() for array in arrays)))) == 1


def compare(overrides: Sequence[str]) -> None:
    processes, config = connect(launched_place()), composed(overrides)
    exchanging = Contestant(config, processes, micro_batches=1)
    alone = {"batched": Contestant(config, Processes(), micro_batches=1)}
    if config.model.norm != "sync_bn":  # whose statistics are those of one pass
        alone["accumulated"] = Contestant(config, Processes(), micro_batches=2)

    def train(seed: int) -> float:
        """How far apart gradients are after the first step, and weights after the last, at most."""
        for contestant in (exchanging, *alone.values()):
            contestant.begin(seed)
        start, apart = exchanging.weights(), []
        with make_loader(config.data, config.train, open_train(config.data)) as loader:
            for step, batches in zip(range(STEPS), loader.steps(), strict=False):
                exchanging.step([batches[processes.rank]], 0.01)
                for name, contestant in alone.items():
                    contestant.step(batches if name == "accumulated" else [joined(batches)], 0.01)
                if step == 0:  # momentum is the gradient then
                    apart += [furthest(exchanging.momenta(), contestant.momenta()) for contestant in alone.values()]
        apart += [furthest(exchanging.weights(), contestant.weights()) for contestant in alone.values()]
        require_equal_on_all(processes, exchanging.weights())
        assert furthest(exchanging.weights(), start) > 1e-3, "nothing was trained"
        print(f"seed {seed}: gradients, weights of {', '.join(alone)} off by {apart}", flush=True)
        return max(processes.gather(max(apart)))  # on all processes alike

    assert any(train(seed) < BOUND for seed in SEEDS), "see the lines above"


def compare_wire(overrides: Sequence[str]) -> None:
    processes, config = connect(launched_place()), composed(overrides)
    values = [
        (rng.normal(size=1000) * 10 ** rng.uniform(-8, 4, 1000)).astype(np.float32)
        for rng in map(np.random.default_rng, range(processes.size))
    ]
    for array in values:
        array[0] = 60_000  # the sum would overflow, the mean does not
    mean = processes.mean(tf.constant(values[processes.rank]), name="values", wire="float16").numpy()
    first, second = [(array / 2).astype(np.float16) for array in values]
    np.testing.assert_array_equal(mean, (first + second).astype(np.float32))

    rounded = Contestant(config, processes, micro_batches=1, wire="float16")
    exact = Contestant(config, processes, micro_batches=1)
    with make_loader(config.data, config.train, open_train(config.data)) as loader:
        batch = next(loader.steps())[processes.rank]
    for contestant in (rounded, exact):
        contestant.step([batch], 0.01)
    largest = max(float(np.abs(array).max()) for array in exact.momenta())
    assert 0 < furthest(rounded.momenta(), exact.momenta()) < 2e-3 * largest
    require_equal_on_all(processes, rounded.weights())


def spoil_gradients() -> None:
    honest = TrainStep._gradients

    def infinite(self: TrainStep, inputs: dict[str, tf.Tensor]) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        gradients, metrics = honest(self, inputs)
        return [gradients[0] / 0.0, *gradients[1:]], metrics

    TrainStep._gradients = infinite


def spoil_scores() -> None:
    def fail(self: Evaluation, *args: object, **options: object) -> None:
        raise ZeroDivisionError("no scores today")

    Evaluation.score = fail


def reach_target() -> None:
    loop._reaches = lambda options, scored: True


def stop_moving(how: Callable[[], None]) -> Callable[[], None]:
    honest, calls = TrainStep.__call__, []

    def spoil() -> None:
        def update(self: TrainStep, *args: object) -> object:
            calls.append(1)
            if len(calls) == 3:
                how()
            return honest(self, *args)

        TrainStep.__call__ = update

    return spoil


FAULTS: dict[str, tuple[int, Callable[[], None]]] = {
    "gradients": (1, spoil_gradients),
    "scores": (0, spoil_scores),
    "target": (0, reach_target),
    "frozen": (1, stop_moving(lambda: os.kill(os.getpid(), signal.SIGSTOP))),
    "late": (1, stop_moving(lambda: time.sleep(3600))),
}
TASKS = {"compare": compare, "wire": compare_wire}

if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    if task in TASKS:
        TASKS[task](arguments)
        sys.exit()
    rank, spoil = FAULTS[task]
    if int(os.environ["HOROVOD_RANK"]) == rank:
        spoil()
    sys.argv = ["mrcnn_train", *arguments]
    sys.exit(main())
