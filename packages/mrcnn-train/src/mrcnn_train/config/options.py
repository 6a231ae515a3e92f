"""The options of a run, typed. Hydra uses these dataclasses as its schema; below `app.py` they are plain objects.

Defaults are the recipe of the ancestor for COCO on ResNet-50. Sizes are pixels of the resized image.
"""

import dataclasses
from typing import Any

from mrcnn_data import Augmentation
from mrcnn_model import PRECISIONS, ModelConfig
from mrcnn_train.errors import ConfigError

OPTIMIZERS = ("sgd", "lars", "novograd")
DECAYS = ("steps", "cosine")
RATE_PERIODS = ("step", "epoch")
WIRES = (None, "float16")  # Horovod sends no bfloat16

# ModelConfig without `num_classes`, which comes from the data, and with the weights to start from.
ModelOptions: Any = dataclasses.make_dataclass(
    "ModelOptions",
    [
        *(
            (f.name, f.type, dataclasses.field(default=f.default, default_factory=f.default_factory))  # type: ignore[call-overload]
            for f in ModelConfig.options()
        ),
        ("weights", str | None, None),
    ],
)


@dataclasses.dataclass
class SyntheticOptions:
    """A data set of drawn shapes, made at `data.root` where it is not there yet."""

    train: int = 200  # images
    val: int = 50
    size: int = 160  # edge, pixels
    seed: int = 0


@dataclasses.dataclass
class DataOptions:
    """Where the images are and how they are loaded.

    The layout is ROOT/annotations/instances_SPLIT.json with ROOT/SPLIT/*; the four explicit paths are for any other.
    """

    root: str | None = None
    train: str | None = "train2017"  # split
    val: str | None = "val2017"  # split; null: no evaluation
    train_annotations: str | None = None  # file, with train_images in place of root and split
    train_images: str | None = None  # folder
    val_annotations: str | None = None
    val_images: str | None = None
    short_edge: Any = 800  # int, or a list of them, of which each sample draws one
    max_size: int = 1333  # limit of the long edge
    eval_short_edge: int | None = None  # default: the largest of short_edge
    eval_max_size: int | None = None  # default: max_size
    buckets: list[list[int]] | None = None  # canvases [height, width], multiples of 32; default: from the sizes
    max_gt: int = 100  # objects of an image; more are left out and counted
    max_crowds: int = 10
    num_threads: int = 2
    filter_empty: bool = False  # leave out training images without objects
    repeat_threshold: float = 0.0  # classes in a smaller share of the images than this are drawn more often; 0: off
    cache_dir: str | None = "outputs/annotation-cache"  # annotations for all runs and processes to map; null: none
    on_error: str = "raise"  # or "skip" image files that are missing or cannot be read; they are counted
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    synthetic: SyntheticOptions | None = None


@dataclasses.dataclass
class TrainOptions:
    """How much, and in which portions. The run ends at `epochs` or `max_steps`, whichever comes first."""

    images_per_gpu: int = 1  # images of one forward and backward pass
    global_batch: int = 8  # images of one update; what exceeds images_per_gpu x processes is accumulated
    epochs: float | None = 12.0
    max_steps: int | None = None
    seed: int = 0
    deterministic: bool = False  # the same bits in every run on the same machine


@dataclasses.dataclass
class OptimizerOptions:
    """The rule and its rate, which is linear in the global batch (Goyal et al. 2017)."""

    name: str = "sgd"  # or "lars" (You et al. 2017), "novograd" (Ginsburg et al. 2019): for large batches
    base_lr: float = 0.00125  # per image of the global batch
    warmup_steps: int = 1000
    warmup_start_lr: float = 0.00333  # whatever the batch, but at most a third of the scaled rate
    decay: str = "steps"  # after warm-up: "steps" drops the rate, "cosine" lets it fall to 0 at the end
    rate_per: str = "step"  # or "epoch": after warm-up the rate changes only where an epoch begins
    drop_epochs: list[float] = dataclasses.field(default_factory=list)  # where the rate drops, in epochs
    drop_fractions: list[float] = dataclasses.field(default_factory=list)  # or in shares of all steps
    drop_factor: float = 0.1
    momentum: float = 0.9  # of novograd: beta 1
    weight_decay: float = 1e-4  # of kernels
    bias_weight_decay: float = 0.0
    norm_weight_decay: float = 0.0  # of scales and shifts
    bias_lr_factor: float = 1.0  # rate of biases over that of the rest
    clip_norm: float | None = None  # limit of the gradient's global norm
    ema_decay: float | None = None  # average of the weights, for evaluation and checkpoints: d a + (1 - d) w; null: off
    lars_trust: float = 0.001
    novograd_beta_2: float = 0.98


@dataclasses.dataclass
class LogOptions:
    every: int = 20  # steps


@dataclasses.dataclass
class ProfileOptions:
    """A TensorFlow profile below the run's tensorboard/."""

    steps: list[int] | None = None  # [first, last], counted from 1; null: none


@dataclasses.dataclass
class CheckpointOptions:
    """When to save. The end of the run and every evaluation save too."""

    every_epochs: float | None = 1.0
    every_steps: int | None = None
    keep_last: int = 2  # besides the best


@dataclasses.dataclass
class EvalOptions:
    every_epochs: float | None = None  # null: at the end only
    batch_size: int = 1  # images of a process at a time
    limit: int | None = None  # images of the validation split; null: all
    background: bool = False  # train on while a thread scores what was detected


@dataclasses.dataclass
class StopOptions:
    """AP at which an evaluation ends the run; of two, both have to be reached."""

    box_ap: float | None = None
    mask_ap: float | None = None


@dataclasses.dataclass
class DistributedOptions:
    """How processes exchange gradients, and how long they wait for each other."""

    wire: str | None = None  # "float16" halves what is sent; null: float32
    timeout_minutes: float = 30.0  # a process without a step or an exchange for so long ends the job


@dataclasses.dataclass
class LaunchOptions:
    """Processes to start, where no launcher (horovodrun, mpirun) has started them; give one of the two."""

    processes: int | None = None  # on this machine
    hosts: list[str] | None = None  # on others too: [HOST:PROCESSES, ...], by horovodrun and ssh


@dataclasses.dataclass
class RunOptions:
    name: str | None = None  # of the experiment
    dir: str | None = None  # default: outputs/NAME/TIME below the folder of the launch


@dataclasses.dataclass
class RunConfig:
    """Everything a run is asked to do."""

    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    train: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    optimizer: OptimizerOptions = dataclasses.field(default_factory=OptimizerOptions)
    log: LogOptions = dataclasses.field(default_factory=LogOptions)
    profile: ProfileOptions = dataclasses.field(default_factory=ProfileOptions)
    checkpoint: CheckpointOptions = dataclasses.field(default_factory=CheckpointOptions)
    eval: EvalOptions = dataclasses.field(default_factory=EvalOptions)
    stop_at: StopOptions = dataclasses.field(default_factory=StopOptions)
    distributed: DistributedOptions = dataclasses.field(default_factory=DistributedOptions)
    launch: LaunchOptions = dataclasses.field(default_factory=LaunchOptions)
    run: RunOptions = dataclasses.field(default_factory=RunOptions)
    precision: str = "float32"  # or "mixed_float16", "mixed_bfloat16": of convolutions and matrix products
    resume: str | None = None  # run directory to continue
    dry_run: bool = False  # print the plan and stop


def model_config(options: Any, *, num_classes: int) -> ModelConfig:
    """Make the network's config; `num_classes` counts the background.

    Raises:
        ConfigError: a value out of its range.
    """
    values = {f.name: getattr(options, f.name) for f in ModelConfig.options()}
    try:
        return ModelConfig(num_classes=num_classes, **values)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def short_edges(data: DataOptions) -> list[int]:
    """The short edges that training draws from."""
    edges = data.short_edge if isinstance(data.short_edge, list) else [data.short_edge]
    if not edges or not all(isinstance(edge, int) and not isinstance(edge, bool) and edge > 0 for edge in edges):
        raise ConfigError(f"data.short_edge is {data.short_edge!r}; expected pixels, or a list of them")
    return edges


def eval_sizes(data: DataOptions) -> tuple[int, int]:
    """Short edge and size limit of evaluation."""
    return data.eval_short_edge or max(short_edges(data)), data.eval_max_size or data.max_size


def check(config: RunConfig, *, processes: int = 1) -> None:
    """Raise ConfigError for what can be seen to be wrong without data, in a job of so many processes."""
    model_config(config.model, num_classes=2)
    short_edges(config.data)
    train, optimizer = config.train, config.optimizer
    for name, value, least in (
        ("train.images_per_gpu", train.images_per_gpu, 1),
        ("train.global_batch", train.global_batch, 1),
        ("train.max_steps", train.max_steps, 1),
        ("train.seed", train.seed, 0),
        ("data.max_size", config.data.max_size, 1),
        ("data.eval_short_edge", config.data.eval_short_edge, 1),
        ("data.eval_max_size", config.data.eval_max_size, 1),
        ("data.max_gt", config.data.max_gt, 1),
        ("data.max_crowds", config.data.max_crowds, 0),
        ("data.num_threads", config.data.num_threads, 1),
        ("optimizer.warmup_steps", optimizer.warmup_steps, 0),
        ("optimizer.warmup_start_lr", optimizer.warmup_start_lr, 0),
        ("optimizer.weight_decay", optimizer.weight_decay, 0),
        ("optimizer.bias_weight_decay", optimizer.bias_weight_decay, 0),
        ("optimizer.norm_weight_decay", optimizer.norm_weight_decay, 0),
        ("optimizer.bias_lr_factor", optimizer.bias_lr_factor, 0),
        ("log.every", config.log.every, 1),
        ("checkpoint.every_steps", config.checkpoint.every_steps, 1),
        ("checkpoint.keep_last", config.checkpoint.keep_last, 1),
        ("eval.batch_size", config.eval.batch_size, 1),
        ("eval.limit", config.eval.limit, 1),
        ("launch.processes", config.launch.processes, 1),
    ):
        _require(value is None or value >= least, name, value, f"at least {least}")
    for name, number in (
        ("train.epochs", train.epochs),
        ("optimizer.base_lr", optimizer.base_lr),
        ("optimizer.clip_norm", optimizer.clip_norm),
        ("optimizer.lars_trust", optimizer.lars_trust),
        ("stop_at.box_ap", config.stop_at.box_ap),
        ("stop_at.mask_ap", config.stop_at.mask_ap),
        ("checkpoint.every_epochs", config.checkpoint.every_epochs),
        ("eval.every_epochs", config.eval.every_epochs),
        ("distributed.timeout_minutes", config.distributed.timeout_minutes),
    ):
        _require(number is None or number > 0, name, number, "a positive number")
    _require(train.seed < 2**32, "train.seed", train.seed, "less than 2**32")  # what NumPy's generator takes
    for name, share in (
        ("optimizer.momentum", optimizer.momentum),
        ("optimizer.ema_decay", optimizer.ema_decay),
        ("optimizer.novograd_beta_2", optimizer.novograd_beta_2),
    ):
        _require(share is None or 0 <= share < 1, name, share, "at least 0 and less than 1")
    for name, word, known in (
        ("precision", config.precision, PRECISIONS),
        ("optimizer.name", optimizer.name, OPTIMIZERS),
        ("optimizer.decay", optimizer.decay, DECAYS),
        ("optimizer.rate_per", optimizer.rate_per, RATE_PERIODS),
        ("distributed.wire", config.distributed.wire, WIRES),
    ):
        _require(word in known, name, word, f"one of {', '.join('null' if w is None else w for w in known)}")
    _require(0 < optimizer.drop_factor <= 1, "optimizer.drop_factor", optimizer.drop_factor, "more than 0, at most 1")
    steps = config.profile.steps
    _require(
        steps is None or (len(steps) == 2 and 1 <= steps[0] <= steps[1]),
        "profile.steps",
        steps,
        "null or [first, last]",
    )
    if config.stop_at != StopOptions() and config.eval.every_epochs is None:
        raise ConfigError("stop_at needs evaluations to see the AP: set eval.every_epochs")
    if config.stop_at.mask_ap is not None and not config.model.masks:
        raise ConfigError(f"stop_at.mask_ap={config.stop_at.mask_ap}: model.masks=false has no mask AP")
    _check_schedule(train, optimizer)
    _check_batch(train, processes)
    _check_data(config.data)


def _check_schedule(train: TrainOptions, optimizer: OptimizerOptions) -> None:
    if train.epochs is None and train.max_steps is None:
        raise ConfigError("train.epochs and train.max_steps are both null: one must say when to end")
    if optimizer.drop_epochs and optimizer.drop_fractions:
        raise ConfigError("optimizer.drop_epochs and optimizer.drop_fractions are both set: give one of them")
    if optimizer.decay == "cosine" and (optimizer.drop_epochs or optimizer.drop_fractions):
        raise ConfigError(
            "optimizer.decay=cosine takes no drops: set optimizer.drop_epochs=[] and optimizer.drop_fractions=[]"
        )
    for name, drops in (("drop_epochs", optimizer.drop_epochs), ("drop_fractions", optimizer.drop_fractions)):
        _require(drops == sorted(drops) and all(d > 0 for d in drops), f"optimizer.{name}", drops, "rising positions")
    _require(
        all(d <= 1 for d in optimizer.drop_fractions),
        "optimizer.drop_fractions",
        optimizer.drop_fractions,
        "shares between 0 and 1",
    )


def asked_processes(launch: LaunchOptions) -> int:
    """How many processes `launch` asks for.

    Raises:
        ConfigError: both options are given, or a host is not written HOST:PROCESSES.
    """
    if launch.hosts is None:
        return launch.processes or 1
    if launch.processes is not None:
        raise ConfigError("launch.processes and launch.hosts are both set: give one of them")
    counts = [host.rpartition(":")[2] if host.rpartition(":")[0] else "" for host in launch.hosts]
    _require(
        bool(counts) and all(count.isdigit() and int(count) > 0 for count in counts),
        "launch.hosts",
        launch.hosts,
        "[HOST:PROCESSES, ...]",
    )
    return sum(map(int, counts))


def _check_batch(train: TrainOptions, processes: int) -> None:
    """A step has to be whole micro-batches, as many for each process; the message says what would do."""
    if train.global_batch % train.images_per_gpu:
        raise ConfigError(
            f"train.global_batch={train.global_batch} is not a multiple of train.images_per_gpu="
            f"{train.images_per_gpu}; images_per_gpu could be one of {_divisors(train.global_batch)}"
        )
    micro_batches = train.global_batch // train.images_per_gpu
    if micro_batches % processes:
        message = (
            f"train.global_batch={train.global_batch} is {micro_batches} batches of train.images_per_gpu="
            f"{train.images_per_gpu}, which {processes} processes cannot share evenly; processes could be one of "
            f"{_divisors(micro_batches)}"
        )
        if train.global_batch % processes == 0:
            message += f", or train.images_per_gpu one of {_divisors(train.global_batch // processes)}"
        raise ConfigError(message)


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def _check_data(data: DataOptions) -> None:
    for split in ("train", "val"):
        file, folder = getattr(data, f"{split}_annotations"), getattr(data, f"{split}_images")
        if (file is None) != (folder is None):
            raise ConfigError(f"data.{split}_annotations and data.{split}_images go together")
        if file is None and getattr(data, split) is not None and data.root is None:
            raise ConfigError(f"data.root is not set: give data.root=DIR (for split {getattr(data, split)!r})")
    if data.train is None and data.train_annotations is None:
        raise ConfigError("data.train is null: training needs a split, or data.train_annotations and data.train_images")
    for bucket in data.buckets or []:
        _require(
            len(bucket) == 2 and all(edge > 0 and edge % 32 == 0 for edge in bucket),
            "data.buckets",
            data.buckets,
            "pairs [height, width] of multiples of 32",
        )
    _require(data.buckets is None or len(data.buckets) > 0, "data.buckets", data.buckets, "null or some pairs")
    _require(0 <= data.repeat_threshold <= 1, "data.repeat_threshold", data.repeat_threshold, "a share from 0 to 1")
    _require(data.on_error in ("raise", "skip"), "data.on_error", data.on_error, "'raise' or 'skip'")
    crop = data.augmentation.crop_size
    _require(crop % 32 == 0, "data.augmentation.crop_size", crop, "a multiple of 32, or 0 for none")
    try:
        data.augmentation.check()
    except ValueError as error:
        raise ConfigError(f"data.{error}") from error


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} is {value!r}; expected {expected}")
