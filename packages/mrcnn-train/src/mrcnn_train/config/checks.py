"""Check the options before anything is opened."""

from __future__ import annotations

from mrcnn_model import AUTO_PRECISION, DEVICES, PRECISIONS
from mrcnn_train.config.options import DataOptions, OptimizerOptions, RunConfig, StopOptions, TrainOptions
from mrcnn_train.config.values import as_list, model_config, short_edges
from mrcnn_train.errors import ConfigError

OPTIMIZERS = ("sgd", "lars", "novograd")
BEST_BY = ("sum", "mask")
DECAYS = ("steps", "cosine")
RATE_PERIODS = ("step", "epoch")
AUTO_RULES = ("sizes", "network", "training")
WIRES = (None, "float16")  # Horovod sends no bfloat16
MAX_SEED = 2**32 - 1  # NumPy's generator takes no larger one


def check(config: RunConfig, *, processes: int = 1) -> None:
    """Check the options as far as possible without the data, for a job of `processes` processes.

    Raises:
        ConfigError: an option cannot work; the text names the first one.
    """
    model_config(config.model, num_classes=2)
    short_edges(config.data)
    _check_least(config)
    _check_positive(config)
    _check_shares(config.optimizer)
    _check_words(config)
    _check_combinations(config)
    _check_drops(config.optimizer)
    if config.auto is None:
        _check_batch(config.train, processes)
    else:
        for rule in config.auto.rules:
            _require(rule in AUTO_RULES, "auto.rules", config.auto.rules, f"a list of {', '.join(AUTO_RULES)}")
    for split in ("train", "val"):
        _check_split(config.data, split)
    _check_loading(config.data)


def _check_least(config: RunConfig) -> None:
    data, train, optimizer = config.data, config.train, config.optimizer
    for name, value, least in (
        ("train.images_per_gpu", train.images_per_gpu, 1),
        ("train.global_batch", train.global_batch, 1),
        ("train.max_steps", train.max_steps, 1),
        ("eval.times", config.eval.times, 1),
        ("eval.loss_batches", config.eval.loss_batches, 0),
        ("eval.resamples", config.eval.resamples, 0),
        ("stop_at.patience", config.stop_at.patience, 1),
        ("train.seed", train.seed, 0),
        ("data.max_size", data.max_size, 1),
        ("data.eval_short_edge", data.eval_short_edge, 1),
        ("data.eval_max_size", data.eval_max_size, 1),
        ("data.max_gt", data.max_gt, 1),
        ("data.max_crowds", data.max_crowds, 0),
        ("data.num_threads", data.num_threads, 1),
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


def _check_positive(config: RunConfig) -> None:
    for name, number in (
        ("train.epochs", config.train.epochs),
        ("train.minutes", config.train.minutes),
        ("optimizer.base_lr", config.optimizer.base_lr),
        ("optimizer.clip_norm", config.optimizer.clip_norm),
        ("stop_at.box_ap", config.stop_at.box_ap),
        ("stop_at.mask_ap", config.stop_at.mask_ap),
        ("checkpoint.every_epochs", config.checkpoint.every_epochs),
        ("eval.every_epochs", config.eval.every_epochs),
        ("distributed.timeout_minutes", config.distributed.timeout_minutes),
    ):
        _require(number is None or number > 0, name, number, "a positive number")


def _check_shares(optimizer: OptimizerOptions) -> None:
    for name, share in (("momentum", optimizer.momentum), ("ema_decay", optimizer.ema_decay)):
        _require(share is None or 0 <= share < 1, f"optimizer.{name}", share, "at least 0 and less than 1")
    share = optimizer.warmup_fraction
    _require(share is None or 0 <= share <= 1, "optimizer.warmup_fraction", share, "null or a share from 0 to 1")
    _require(0 < optimizer.drop_factor <= 1, "optimizer.drop_factor", optimizer.drop_factor, "more than 0, at most 1")


def _check_words(config: RunConfig) -> None:
    optimizer, data = config.optimizer, config.data
    for name, word, known in (
        ("precision", config.precision, (AUTO_PRECISION, *PRECISIONS)),
        ("device", config.device, DEVICES),
        ("optimizer.name", optimizer.name, OPTIMIZERS),
        ("optimizer.decay", optimizer.decay, DECAYS),
        ("optimizer.rate_per", optimizer.rate_per, RATE_PERIODS),
        ("distributed.wire", config.distributed.wire, WIRES),
        ("data.on_error", data.on_error, ("raise", "skip")),
        ("eval.best_by", config.eval.best_by, BEST_BY),
        ("data.changed", data.changed, ("refuse", "accept")),
    ):
        _require(word in known, name, word, f"one of {', '.join('null' if w is None else w for w in known)}")


def _check_combinations(config: RunConfig) -> None:
    train, steps = config.train, config.profile.steps
    _require(train.seed <= MAX_SEED, "train.seed", train.seed, "less than 2**32")
    _require(
        steps is None or (len(steps) == 2 and 1 <= steps[0] <= steps[1]),
        "profile.steps",
        steps,
        "null or [first, last]",
    )
    evaluates_on_the_way = config.eval.every_epochs is not None or config.eval.times or train.minutes is not None
    if config.stop_at != StopOptions() and not evaluates_on_the_way:
        raise ConfigError("stop_at is compared with the AP of evaluations: set eval.every_epochs or eval.times")
    if config.eval.loss_batches and config.model.norm == "sync_bn":
        raise ConfigError(
            "eval.loss_batches would change the statistics of model.norm=sync_bn by the validation images: give "
            "eval.loss_batches=0"
        )
    if config.stop_at.mask_ap is not None and not config.model.masks:
        raise ConfigError(f"stop_at.mask_ap={config.stop_at.mask_ap}: model.masks=false has no mask AP")
    if config.model.new_classes and config.model.weights is None:
        raise ConfigError("model.new_classes=true needs model.weights=FILE, with the weights of other classes")
    if config.model.allow_missing and config.model.weights is None:
        raise ConfigError("model.allow_missing=true needs model.weights=FILE")
    if train.epochs is None and train.max_steps is None and train.minutes is None:
        raise ConfigError(
            "train.epochs, train.max_steps and train.minutes are null, so training would not end: set one of them"
        )
    if train.minutes is not None and config.optimizer.drop_epochs:
        raise ConfigError(
            f"train.minutes={train.minutes:g} sets the steps, so optimizer.drop_epochs={config.optimizer.drop_epochs} "
            "may never come: give optimizer.drop_epochs=[] and, for example, optimizer.drop_fractions=[0.75,0.93]"
        )


def _check_drops(optimizer: OptimizerOptions) -> None:
    if optimizer.drop_epochs and optimizer.drop_fractions:
        raise ConfigError("optimizer.drop_epochs and optimizer.drop_fractions are both set: give one of them")
    if optimizer.decay == "cosine" and (optimizer.drop_epochs or optimizer.drop_fractions):
        raise ConfigError(
            "optimizer.decay=cosine takes no drops: set optimizer.drop_epochs=[] and optimizer.drop_fractions=[]"
        )
    for name, drops in (("drop_epochs", optimizer.drop_epochs), ("drop_fractions", optimizer.drop_fractions)):
        _require(
            drops == sorted(drops) and all(d > 0 for d in drops), f"optimizer.{name}", drops, "rising numbers above 0"
        )
    _require(
        all(d <= 1 for d in optimizer.drop_fractions),
        "optimizer.drop_fractions",
        optimizer.drop_fractions,
        "shares between 0 and 1",
    )


def _check_batch(train: TrainOptions, processes: int) -> None:
    """Check that each process gets the same whole number of micro-batches; the message says what would fit."""
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


def _check_split(data: DataOptions, split: str) -> None:
    files, folders = as_list(getattr(data, f"{split}_annotations")), as_list(getattr(data, f"{split}_images"))
    names = as_list(getattr(data, split))
    if len(files) != len(folders):
        raise ConfigError(
            f"data.{split}_annotations and data.{split}_images go together, a folder for each file, but there are "
            f"{len(files)} files and {len(folders)} folders"
        )
    if not files and names and data.root is None:
        raise ConfigError(f"data.root is not set: give data.root=DIR (for split {', '.join(map(repr, names))})")
    if split == "train" and not files and not names:
        raise ConfigError("data.train is null: training needs a split, or data.train_annotations and data.train_images")


def _check_loading(data: DataOptions) -> None:
    crop = data.augmentation.crop_size
    for bucket in data.buckets or []:
        _require(
            len(bucket) == 2 and all(edge > 0 and edge % 32 == 0 for edge in bucket),
            "data.buckets",
            data.buckets,
            "pairs [height, width] of multiples of 32",
        )
    _require(data.buckets is None or len(data.buckets) > 0, "data.buckets", data.buckets, "null or some pairs")
    _require(0 <= data.repeat_threshold <= 1, "data.repeat_threshold", data.repeat_threshold, "a share from 0 to 1")
    _require(crop % 32 == 0, "data.augmentation.crop_size", crop, "a multiple of 32, or 0 for none")
    if data.buckets is not None and crop:
        raise ConfigError(
            f"data.buckets={data.buckets} and data.augmentation.crop_size={crop} are both set, but each decides the "
            "shape of training batches: set data.buckets=null or data.augmentation.crop_size=0"
        )
    try:
        data.augmentation.check()
    except ValueError as error:
        raise ConfigError(f"data.{error}") from error


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} is {value!r}; expected {expected}")
