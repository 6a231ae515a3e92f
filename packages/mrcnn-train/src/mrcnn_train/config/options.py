"""The options of a run, typed. Hydra uses these dataclasses as its schema; other code sees plain objects.

The defaults are Tensorpack's recipe for COCO with ResNet-50. Sizes are in pixels of the resized image.
"""

import dataclasses
import difflib
from typing import Any

from mrcnn_data import Augmentation
from mrcnn_model import ModelConfig


class Options:
    """A group of options that can be changed until `freeze` is called: a run does not change its options."""

    def freeze(self) -> None:
        """Make this group and the groups in it read-only."""
        for value in vars(self).values():
            if isinstance(value, Options):
                value.freeze()
        self.__dict__["_is_frozen"] = True

    def __setattr__(self, name: str, value: object) -> None:
        if "_is_frozen" in self.__dict__:
            raise dataclasses.FrozenInstanceError(f"{name}: the options of a run do not change")
        known = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise AttributeError(f"{type(self).__name__} has no option {name!r}; did you mean {nearest[0]!r}?")
        super().__setattr__(name, value)


# ModelConfig without `num_classes`, which comes from the data, and with the weights to start from.
ModelOptions: Any = dataclasses.make_dataclass(
    "ModelOptions",
    [
        *(
            (f.name, f.type, dataclasses.field(default=f.default, default_factory=f.default_factory))  # type: ignore[call-overload]
            for f in ModelConfig.options()
        ),
        ("weights", str | None, None),  # file, checkpoint or run directory to start from
        ("new_classes", bool, False),  # the weights are of other classes: layers over classes start fresh
        ("allow_missing", bool, False),  # accept weights that fill only a small part of the network
    ],
    bases=(Options,),
)
ModelOptions.__module__ = __name__  # where other processes find the class: `make_dataclass` writes "types"


@dataclasses.dataclass
class SyntheticOptions(Options):
    """A data set of drawn shapes, made at `data.root` if it is not there yet."""

    train: int = 200  # images
    val: int = 50
    size: int = 160  # edge, pixels
    seed: int = 0


@dataclasses.dataclass
class DataOptions(Options):
    """Where the images are, and how they are loaded.

    A split is ROOT/annotations/instances_SPLIT.json with the images ROOT/SPLIT/*, or ROOT/SPLIT/_annotations.coco.json
    beside its images. For another layout give the four paths. Splits and paths may be lists, [a, b]: training sets are
    joined, validation sets are scored one by one.
    """

    root: str | None = None
    train: Any = "train2017"  # split or splits
    val: Any = "val2017"  # split or splits; null: no evaluation
    train_annotations: Any = None  # file or files, with train_images in place of root and train
    train_images: Any = None  # folder of each
    val_annotations: Any = None  # file or files, with val_images in place of root and val
    val_images: Any = None
    changed: str = "refuse"  # or "accept": resume although the training data have changed
    short_edge: Any = 800  # int, or a list: each training sample draws one of them
    max_size: int = 1333  # limit of the long edge
    eval_short_edge: int | None = None  # default: the largest of short_edge
    eval_max_size: int | None = None  # default: max_size
    buckets: list[list[int]] | None = None  # batch shapes [height, width], multiples of 32; default: from the sizes
    max_gt: int = 100  # objects of a training image; further ones are left out and counted
    max_crowds: int = 10  # crowd regions of a training image
    num_threads: int = 2
    filter_empty: bool = False  # leave out training images without objects
    repeat_threshold: float = 0.0  # repeat images with classes that fewer than this share of the images have; 0: off
    cache_dir: str | None = "outputs/annotation-cache"  # copies of annotations that all processes map; null: none
    on_error: str = "raise"  # or "skip": continue without images that are missing or unreadable, and count them
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    synthetic: SyntheticOptions | None = None


@dataclasses.dataclass
class TrainOptions(Options):
    """How long to train, and on how many images per step.

    The run ends at `epochs` or `max_steps`, what comes first; with `minutes`, which the experiments leave open, only
    these count.
    """

    images_per_gpu: int = 1  # images of one forward and backward pass
    global_batch: int = 8  # images of one update; if more than images_per_gpu x processes, gradients are accumulated
    epochs: float | None = 12.0
    max_steps: int | None = None
    minutes: float | None = None  # of training and its evaluations, without set-up and compilation: sets the steps
    seed: int = 0
    deterministic: bool = False  # the same bits in every run on the same machine


@dataclasses.dataclass
class OptimizerOptions(Options):
    """The update rule and its learning rate, which is proportional to the global batch (Goyal et al. 2017)."""

    name: str = "sgd"  # or "lars" (You et al. 2017), "novograd" (Ginsburg et al. 2019): for large batches
    base_lr: float = 0.00125  # per image of the global batch
    warmup_steps: int = 1000
    warmup_fraction: float | None = None  # warm-up ends after this share of all steps, if that is earlier
    warmup_start_lr: float = 0.00333  # not scaled by the batch, but at most a third of the scaled rate
    decay: str = "steps"  # after warm-up: "steps" drops the rate, "cosine" lowers it to 0 at the end of the run
    rate_per: str = "step"  # or "epoch": after warm-up the rate changes only when an epoch begins
    drop_epochs: list[float] = dataclasses.field(default_factory=list)  # epochs at which the rate drops
    drop_fractions: list[float] = dataclasses.field(default_factory=list)  # or shares of all steps
    drop_factor: float = 0.1
    momentum: float = 0.9  # beta 1 of novograd
    weight_decay: float = 1e-4  # of kernels
    bias_weight_decay: float = 0.0
    norm_weight_decay: float = 0.0  # of scales and shifts
    bias_lr_factor: float = 1.0  # learning rate of biases, as a multiple of that of the rest
    clip_norm: float | None = None  # limit of the gradient's global norm
    ema_decay: float | None = None  # d of average = d average + (1 - d) w, which is evaluated and saved; null: off


@dataclasses.dataclass
class LogOptions(Options):
    every: int = 20  # steps


@dataclasses.dataclass
class ProfileOptions(Options):
    """A TensorFlow profile, written to tensorboard/ in the run directory."""

    steps: list[int] | None = None  # [first, last], counted from 1; null: none


@dataclasses.dataclass
class CheckpointOptions(Options):
    """When to save a checkpoint, besides at the end of the run and before every evaluation."""

    every_epochs: float | None = 1.0
    every_steps: int | None = None
    keep_last: int = 2  # besides the best


@dataclasses.dataclass
class EvalOptions(Options):
    every_epochs: float | None = None  # null: at the end only
    times: int | None = None  # evaluations spread over the run, if every_epochs is null; with train.minutes: 10
    loss_batches: int = 0  # batches of each validation set whose losses an evaluation measures, without augmentation
    resamples: int = 0  # draws of the validation images, for the spread of AP over images, if there are at most 200
    best_by: str = "sum"  # which AP decides the best checkpoint: "sum" of box and mask AP, or "mask" where there is one
    batch_size: int = 1  # images that a process detects on at a time
    limit: int | None = None  # images of each validation set; null: all
    background: bool = False  # training continues while a thread scores the detections


@dataclasses.dataclass
class StopOptions(Options):
    """When an evaluation ends the run: if both AP that are given are reached, or after `patience`."""

    box_ap: float | None = None
    mask_ap: float | None = None
    patience: int | None = None  # evaluations in a row that are not better than the best so far


@dataclasses.dataclass
class DistributedOptions(Options):
    """How processes exchange gradients, and how long they wait for each other."""

    wire: str | None = None  # "float16" sends half the bytes; null: float32
    bind_cores: bool = True  # each process takes its share of the cores, near its GPU; false: leave it to the launcher
    timeout_minutes: float = 30.0  # the job ends when a process does no step and no exchange for this long


@dataclasses.dataclass
class LaunchOptions(Options):
    """Processes to start if no launcher (srun, mpirun, horovodrun) has started them: give `processes` or `hosts`."""

    processes: int | None = None  # on this machine
    hosts: list[str] | None = None  # on several machines, by ssh: [HOST:PROCESSES, ...] or [USER@HOST:PROCESSES, ...]
    interface: str | None = None  # network interface of this machine that the hosts reach; default: by the routes
    ssh_port: int | None = None  # default: from ssh's configuration
    ssh_key: str | None = None  # private key file; default: from ssh's configuration
    environment: list[str] | None = None  # names of further variables that processes on other hosts get


@dataclasses.dataclass
class RunOptions(Options):
    name: str | None = None  # names the folder and the report; the experiment sets it
    dir: str | None = None  # default: outputs/NAME/TIME below the folder of the launch


@dataclasses.dataclass
class AutoOptions(Options):
    """Options that are chosen from the data and the machine before a run starts: those that are not given."""

    rules: list[str] = dataclasses.field(default_factory=lambda: ["sizes", "network", "training"])  # groups to follow
    given: list[str] = dataclasses.field(default_factory=list)  # names of options to keep; the command fills it


@dataclasses.dataclass
class RunConfig(Options):
    """All options of a run."""

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
    auto: AutoOptions | None = None  # of the experiment `auto`
    precision: str = "auto"  # or "float32", "mixed_float16", "mixed_bfloat16"; auto: the fastest of the machine
    device: str = "auto"  # or "cpu", "gpu"; auto: a GPU for each process, or the CPU where there is none
    tf32: bool = True  # on GPUs from Ampere on, products in float32 round their factors to 10 bits, as TensorFlow does
    resume: str | None = None  # run directory to continue; or "auto": start the run in run.dir, or continue it
    dry_run: bool = False  # print the plan and stop
