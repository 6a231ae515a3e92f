"""Start a training job on SageMaker, by its Python SDK v3 (`pip install "sagemaker-train==1.27.*"`).

    python -m infra.sagemaker.launch NAME +experiment=32x4_24ep --instances 4 --spot train.max_steps=100

The bucket, the role and the image come from infra/cloud.env (infra/settings.py). Checkpoints are copied to
`s3://BUCKET/sagemaker/NAME/checkpoints`; a job of the same NAME continues from them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from infra.settings import SettingsError, read_settings, require

GIB_FREE = 100  # size of the volume: the data set takes 45 GB with its archives, checkpoints a few GB
_USER = "infra.sagemaker.launch"


class JobError(ValueError):
    """An option that is wrong. The message names it."""


class Job(NamedTuple):
    """The options of a job. `hours` limits training; with `spot`, `wait_hours` limits training and waiting together."""

    name: str
    overrides: list[str]
    instances: int = 1
    instance_type: str = "ml.p4d.24xlarge"
    spot: bool = False
    hours: float = 24.0
    wait_hours: float = 72.0
    fast_file: bool = False
    dry_run: bool = False


def check(job: Job) -> None:
    """Raise JobError for an option that SageMaker or mrcnn_train would refuse later."""
    if not re.fullmatch(r"[a-zA-Z0-9](-?[a-zA-Z0-9]){0,40}", job.name):
        raise JobError(f"NAME={job.name}: expected letters, digits and single hyphens, 41 at most")
    if job.instances < 1:
        raise JobError(f"--instances={job.instances}: expected at least 1")
    if not re.fullmatch(r"ml\.[a-z0-9-]+\.[a-z0-9]+", job.instance_type):
        raise JobError(f"--instance-type={job.instance_type}: expected a type like ml.p4d.24xlarge")
    if job.hours <= 0:
        raise JobError(f"--hours={job.hours:g}: expected a positive number")
    if job.spot and job.wait_hours < job.hours:
        raise JobError(f"--wait-hours={job.wait_hours:g}: expected at least --hours={job.hours:g}")
    if not any(re.match(r"\+?experiment=", override) for override in job.overrides):
        raise JobError("+experiment=NAME is missing: give the name of a recipe, like +experiment=32x4_24ep")
    for override in job.overrides:
        if not re.match(r"~[\w./@]+$|\+{0,2}[\w./@]+=", override):
            raise JobError(f"{override}: expected KEY=VALUE")


def hyperparameters(overrides: Sequence[str]) -> dict[str, str]:
    """Return options in SageMaker's form, as a dictionary."""
    return {key: value for key, _, value in (override.partition("=") for override in overrides)}


def trainer_for(job: Job, settings: Mapping[str, str], session: Any = None) -> tuple[Any, list[Any]]:
    """Build the `ModelTrainer` of a job, and its input channels.

    Args:
        session: SageMaker session; by default one of the settings' region.

    Raises:
        SettingsError, JobError: before anything is asked of AWS.
    """
    check(job)
    bucket = require("BUCKET", settings, user=_USER)
    data = require("DATA_PREFIX", settings, user=_USER)
    role = require("SAGEMAKER_ROLE", settings, user=_USER)
    image = require("SAGEMAKER_IMAGE", settings, user=_USER)
    region = require("AWS_REGION", settings, user=_USER)
    # Imported here, because the SDK takes seconds to import, and the checks above do not need it.
    import boto3
    from sagemaker.core.helper.iam_role_resolver import RoleValidationError
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.training.configs import (
        CheckpointConfig,
        Compute,
        InputData,
        OutputDataConfig,
        StoppingCondition,
    )
    from sagemaker.train import ModelTrainer

    folder = f"s3://{bucket}/sagemaker/{job.name}"
    try:
        trainer = ModelTrainer(
            sagemaker_session=session or Session(boto_session=boto3.Session(region_name=region), default_bucket=bucket),
            role=role,
            base_job_name=job.name,
            # No source code: then the entry point of the image runs as the first process, which gets SIGTERM. The SDK's
            # scripts would run it below a shell, which does not pass the signal on, and start too few ranks.
            training_image=image,
            training_input_mode="FastFile" if job.fast_file else "File",
            hyperparameters=hyperparameters(job.overrides),
            compute=Compute(
                instance_type=job.instance_type,
                instance_count=job.instances,
                volume_size_in_gb=GIB_FREE,
                enable_managed_spot_training=job.spot,
            ),
            stopping_condition=StoppingCondition(
                max_runtime_in_seconds=int(job.hours * 3600),
                max_wait_time_in_seconds=int(job.wait_hours * 3600) if job.spot else None,
            ),
            checkpoint_config=CheckpointConfig(s3_uri=f"{folder}/checkpoints", local_path="/opt/ml/checkpoints"),
            output_data_config=OutputDataConfig(s3_output_path=f"{folder}/output"),
        )
    except RoleValidationError as error:  # its text is pages long
        raise JobError(" ".join(str(error).splitlines()[:2])) from error
    return trainer, [InputData(channel_name="training", data_source=f"s3://{bucket}/{data}/")]


def parse(arguments: Sequence[str] | None) -> Job:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m {_USER}", description="Start a training job on SageMaker.")
    parser.add_argument("name", metavar="NAME", help="name of the run; a job of the same name continues it")
    parser.add_argument(
        "overrides", nargs="+", metavar="KEY=VALUE", help="options of mrcnn_train, such as +experiment=..."
    )
    defaults = Job("", [])
    parser.add_argument("--instances", type=int, default=defaults.instances, metavar="N", help="(default: 1)")
    parser.add_argument(
        "--instance-type", default=defaults.instance_type, metavar="TYPE", help=f"(default: {defaults.instance_type})"
    )
    parser.add_argument("--spot", action="store_true", help="use spare capacity: cheaper, but may be interrupted")
    parser.add_argument(
        "--hours", type=float, default=defaults.hours, metavar="H", help="limit of training (default: 24)"
    )
    parser.add_argument(
        "--wait-hours",
        type=float,
        default=defaults.wait_hours,
        metavar="H",
        help="limit of waiting and training, with --spot (default: 72)",
    )
    parser.add_argument("--fast-file", action="store_true", help="read the data from S3 while training, without a copy")
    parser.add_argument("--dry-run", action="store_true", help="check everything, start nothing")
    return Job(**vars(parser.parse_intermixed_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the job; a mistake in options or settings prints one line on stderr and exits with 2."""
    try:
        job = parse(arguments)
        trainer, channels = trainer_for(job, read_settings())
    except (JobError, SettingsError) as error:
        print(f"{_USER}: {error}", file=sys.stderr)
        return 2
    trainer.train(input_data_config=channels, wait=False, logs=False, dry_run=job.dry_run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
