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
from mrcnn_model import MaskRCNN, PrecisionChoice, build_model
from mrcnn_train import RunConfig, runner
from mrcnn_train.app import main
from mrcnn_train.config.composition import typed_config
from mrcnn_train.config.values import model_config
from mrcnn_train.job.distributed import Processes, connect
from mrcnn_train.job.place import launched_place
from mrcnn_train.training import scoring
from mrcnn_train.training.datasets import make_loader, open_train
from mrcnn_train.training.evaluation import Evaluation
from mrcnn_train.training.optimizer import Optimizer, Sgd
from mrcnn_train.training.step import Measured, TrainStep

STEPS = 5


class Contestant:
    """A tiny model that trains on some of the batches of each step."""

    def __init__(self, config: RunConfig, processes: Processes, *, micro_batches: int, wire: str | None = None) -> None:
        keras.utils.set_random_seed(3)
        self.model: MaskRCNN = build_model(
            model_config(config.model, num_classes=7),
            precision=config.precision,
            mean_over_processes=processes.mean_in_order,
        )
        self.optimizer = Optimizer(
            self.model.trainable_variables,
            rule=Sgd(momentum=0.9),
            decayed=self.model.decayed_variables,
            weight_decay=1e-4,
            clip_norm=5.0,
        )
        self.step = TrainStep(self.model, self.optimizer, micro_batches=micro_batches, processes=processes, wire=wire)

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
    has_shared_statistics = config.model.norm == "sync_bn"
    # A batch of four sums in another order than two of two, which half precision rounds to other numbers.
    batched_tolerance = 1e-5 if config.precision == "float32" else 0.1
    exchanging = Contestant(config, processes, micro_batches=1)
    batched = Contestant(config, Processes(), micro_batches=1)
    accumulating = batched if has_shared_statistics else Contestant(config, Processes(), micro_batches=2)
    with make_loader(config.data, config.train, open_train(config.data)) as loader:
        steps = loader.steps()
        for step in range(STEPS):
            batches = next(steps)
            exchanging.step([batches[processes.rank]], 0.01)
            batched.step([joined(batches)], 0.01)
            if not has_shared_statistics:
                accumulating.step(batches, 0.01)
            if step == 0:  # momentum is the gradient then
                print("gradients:", furthest(exchanging.momenta(), accumulating.momenta()), flush=True)
                assert furthest(exchanging.momenta(), accumulating.momenta()) < 1e-5
                assert furthest(exchanging.momenta(), batched.momenta()) < batched_tolerance
    apart = furthest(exchanging.weights(), accumulating.weights()), furthest(exchanging.weights(), batched.weights())
    print(f"weights: {apart[0]:.2e} from accumulated, {apart[1]:.2e} from batched", flush=True)
    assert apart[0] < 1e-5
    assert apart[1] < batched_tolerance
    require_equal_on_all(processes, exchanging.weights())
    assert furthest(exchanging.weights(), Contestant(config, Processes(), micro_batches=1).weights()) > 1e-3


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

    def infinite(self: TrainStep, inputs: dict[str, tf.Tensor]) -> tuple[list[tf.Tensor], Measured]:
        gradients, measured = honest(self, inputs)
        return [gradients[0] / 0.0, *gradients[1:]], measured

    TrainStep._gradients = infinite


def spoil_scores() -> None:
    def fail(self: Evaluation, *args: object, **options: object) -> None:
        raise ZeroDivisionError("no scores today")

    Evaluation.score = fail


def reach_target() -> None:
    scoring._reaches = lambda target, numbers: True


def stop_moving(how: Callable[[], None]) -> Callable[[], None]:
    honest, calls = TrainStep.__call__, []

    def spoil() -> None:
        def update(self: TrainStep, *args: object, **options: object) -> object:
            calls.append(1)
            if len(calls) == 3:
                how()
            return honest(self, *args, **options)

        TrainStep.__call__ = update

    return spoil


def oversleep() -> None:
    time.sleep(3600)


def change_machine() -> None:
    runner.choose_precision = lambda: PrecisionChoice("mixed_float16", "a GPU of this test")


FAULTS: dict[str, tuple[int, Callable[[], None]]] = {
    "gradients": (1, spoil_gradients),
    "machine": (1, change_machine),
    "scores": (0, spoil_scores),
    "target": (0, reach_target),
    "frozen": (1, stop_moving(lambda: os.kill(os.getpid(), signal.SIGSTOP))),
    "late": (1, stop_moving(oversleep)),
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
