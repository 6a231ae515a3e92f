"""Settings are read from one place; a missing or wrong one gives a line that names it."""

import re

import pytest

from infra.settings import SETTINGS, SettingsError, fill, main, read_settings, require


def test_the_environment_comes_before_the_file_and_the_file_before_defaults(tmp_path):
    file = tmp_path / "cloud.env"
    file.write_text("# comment\n\nBUCKET = 'mine'\nAWS_REGION=us-west-2\nNODES=2\n".replace(" = ", "="))
    settings = read_settings(file, {"AWS_REGION": "eu-west-1", "HOME": "/root", "NODES": ""})
    assert settings["BUCKET"] == "mine"
    assert settings["AWS_REGION"] == "eu-west-1"
    assert settings["NODES"] == "2"
    assert settings["NODE_TYPE"] == SETTINGS["NODE_TYPE"].default
    assert "HOME" not in settings


@pytest.mark.parametrize("line", ["BUCKET", "BUCKETS=x", "export BUCKET=x"])
def test_a_line_that_sets_nothing_is_refused_with_its_number(tmp_path, line):
    file = tmp_path / "cloud.env"
    file.write_text(f"AWS_REGION=us-west-2\n{line}\n")
    with pytest.raises(SettingsError, match=re.escape(f"{file}:2: '{line}'")):
        read_settings(file, {})


def test_an_empty_setting_is_missing(tmp_path):
    file = tmp_path / "cloud.env"
    file.write_text("BUCKET=\n")
    with pytest.raises(SettingsError, match=r"^x needs BUCKET, a bucket's name, .*: set it in infra/cloud.env$"):
        require("BUCKET", read_settings(file, {}), user="x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_REGION", "us-west"),
        ("AVAILABILITY_ZONE", "us-west-2"),
        ("BUCKET", "s3://mine"),
        ("DATA_PREFIX", "/coco"),
        ("IMAGE", "mrcnn"),
        ("FSX_ID", "fs-xyz"),
        ("FSX_MOUNT_NAME", "/fsx"),
        ("SUBNET_ID", "sg-0123456789abcdef0"),
        ("SECURITY_GROUP_ID", "subnet-0123456789abcdef0"),
        ("SAGEMAKER_ROLE", "mrcnn-role"),
        ("KUBERNETES_VERSION", "v1.35"),
        ("NODES", "0"),
    ],
)
def test_a_setting_that_cannot_be_right_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=f"^{name}={value} .*expected "):
        require(name, {name: value}, user="x")


def test_filling_replaces_every_name():
    text = fill("a: ${BUCKET}\nb: s3://${BUCKET}/${DATA_PREFIX}\n", {"BUCKET": "mine", "DATA_PREFIX": "coco"}, user="x")
    assert text == "a: mine\nb: s3://mine/coco\n"


def test_a_name_that_is_no_setting_is_an_error_of_the_file():
    with pytest.raises(SettingsError, match=r"^x.yaml: FOO is not a setting"):
        fill("${FOO}", {}, user="x.yaml")


def test_the_example_lists_every_setting_and_sets_only_defaults(root):
    lines = [line for line in (root / "infra/cloud.env.example").read_text().splitlines() if line and line[0] != "#"]
    values = dict(line.split("=", 1) for line in lines)
    assert values == {name: setting.default or "" for name, setting in SETTINGS.items()}


def test_the_command_prints_one_line_for_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("BUCKET", raising=False)
    monkeypatch.setattr("infra.settings.FILE", tmp_path / "none.env")
    file = tmp_path / "a.yaml"
    file.write_text("bucket: ${BUCKET}\n")
    assert main([str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "needs BUCKET" in captured.err
    monkeypatch.setenv("BUCKET", "mine")
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == "bucket: mine\n"
