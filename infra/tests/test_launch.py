"""The request that SageMaker gets, made by the SDK against moto; wrong options are refused before it."""

import json

import boto3
import moto
import pytest

from infra.sagemaker import launch
from infra.sagemaker.launch import JobError, parse, trainer_for
from infra.settings import SettingsError

SETTINGS = {
    "AWS_REGION": "us-west-2",
    "BUCKET": "our-bucket",
    "DATA_PREFIX": "sets/coco",
    "SAGEMAKER_ROLE": "arn:aws:iam::123456789012:role/training",
    "SAGEMAKER_IMAGE": "registry.example/mrcnn-sagemaker:1",
}


@pytest.fixture
def aws(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    # moto has no policy simulator, by which the SDK looks at the role's permissions.
    monkeypatch.setattr("sagemaker.core.helper.iam_role_resolver._evaluate_permissions", lambda *arguments: (True, []))
    trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    with moto.mock_aws():
        boto3.client("s3").create_bucket(
            Bucket="our-bucket", CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
        )
        boto3.client("iam").create_role(
            RoleName="training", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        )
        yield


def requested(*arguments):
    trainer, channels = trainer_for(parse(arguments), SETTINGS)
    trainer.train(input_data_config=channels, wait=False, logs=False)
    client = boto3.client("sagemaker")
    (job,) = client.list_training_jobs()["TrainingJobSummaries"]
    return client.describe_training_job(TrainingJobName=job["TrainingJobName"])


def test_a_spot_job_on_four_instances(aws):
    job = requested(
        "run-1", "+experiment=32x4_24ep", "--instances", "4", "--spot", "--hours", "2", "--wait-hours", "5",
        "train.max_steps=5", "~data.synthetic",
    )  # fmt: skip
    assert job["HyperParameters"] == {"+experiment": "32x4_24ep", "train.max_steps": "5", "~data.synthetic": ""}
    assert job["ResourceConfig"]["InstanceCount"] == 4
    assert job["ResourceConfig"]["InstanceType"] == "ml.p4d.24xlarge"
    assert job["EnableManagedSpotTraining"] is True
    assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 7200, "MaxWaitTimeInSeconds": 18000}
    assert job["CheckpointConfig"] == {
        "S3Uri": "s3://our-bucket/sagemaker/run-1/checkpoints", "LocalPath": "/opt/ml/checkpoints",
    }  # fmt: skip
    assert job["OutputDataConfig"]["S3OutputPath"] == "s3://our-bucket/sagemaker/run-1/output"
    assert job["RoleArn"] == SETTINGS["SAGEMAKER_ROLE"]
    (channel,) = job["InputDataConfig"]
    assert channel["ChannelName"] == "training"
    assert channel["DataSource"]["S3DataSource"]["S3Uri"] == "s3://our-bucket/sets/coco/"


def test_the_images_own_entry_point_runs(aws):
    specification = requested("run-1", "+experiment=demo")["AlgorithmSpecification"]
    assert specification["TrainingImage"] == SETTINGS["SAGEMAKER_IMAGE"]
    assert specification["TrainingInputMode"] == "File"
    assert not {"ContainerEntrypoint", "ContainerArguments"} & set(specification)


def test_a_job_without_spot_has_no_waiting_time(aws):
    job = requested("run-1", "+experiment=demo", "--instance-type", "ml.g6.xlarge")
    assert job["EnableManagedSpotTraining"] is False
    assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 24 * 3600}
    assert job["ResourceConfig"]["InstanceType"] == "ml.g6.xlarge"


def test_fast_file_reads_from_s3(aws):
    job = requested("run-1", "+experiment=demo", "--fast-file")
    assert job["AlgorithmSpecification"]["TrainingInputMode"] == "FastFile"


def test_a_dry_run_starts_nothing(aws, monkeypatch):
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    assert launch.main(["run-1", "+experiment=demo", "--dry-run"]) == 0
    assert boto3.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []


def test_a_role_that_sagemaker_may_not_use_is_one_line(aws):
    boto3.client("iam").create_role(
        RoleName="other", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": []})
    )
    settings = {**SETTINGS, "SAGEMAKER_ROLE": "arn:aws:iam::123456789012:role/other"}
    with pytest.raises(JobError, match="role/other' cannot be used") as caught:
        trainer_for(parse(["run-1", "+experiment=demo"]), settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run_1", "+experiment=demo"], "NAME=run_1"),
        (["run-1", "train.max_steps=1"], "experiment"),
        (["run-1", "+experiment=demo", "max steps"], "max steps"),
        (["run-1", "+experiment=demo", "--instances", "0"], "--instances=0"),
        (["run-1", "+experiment=demo", "--instance-type", "p4d.24xlarge"], "--instance-type=p4d.24xlarge"),
        (["run-1", "+experiment=demo", "--hours", "0"], "--hours=0"),
        (["run-1", "+experiment=demo", "--spot", "--hours", "9", "--wait-hours", "3"], "--wait-hours=3"),
    ],
)
def test_a_wrong_option_is_refused_by_name(arguments, named):
    with pytest.raises(JobError, match=named):
        trainer_for(parse(arguments), SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_missing_setting_is_refused_by_name(name):
    with pytest.raises(SettingsError, match=f"^infra.sagemaker.launch needs {name}, "):
        trainer_for(parse(["run-1", "+experiment=demo"]), {k: v for k, v in SETTINGS.items() if k != name})


def test_the_command_ends_with_one_line(capsys):
    assert launch.main(["run_1", "+experiment=demo"]) == 2
    assert capsys.readouterr().err == (
        "infra.sagemaker.launch: NAME=run_1: expected letters, digits and single hyphens, 41 at most\n"
    )
