"""Read the settings of an account (bucket, cluster, file system, role), which all cloud paths use.

They are in `infra/cloud.env` (`NAME=value` lines; `infra/cloud.env.example` lists them). An environment variable with
the same name takes precedence. `python -m infra.settings FILE...` prints files with every `${NAME}` filled in:

    python -m infra.settings infra/eks/cluster.yaml | eksctl create cluster -f -
"""

from __future__ import annotations

import os
import re
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("cloud.env")


class SettingsError(ValueError):
    """A setting that is missing or wrong. The message names it and says where to set it."""


class Setting(NamedTuple):
    """A setting: `pattern` must match the whole value; `meaning` completes the error message."""

    pattern: str
    meaning: str
    default: str | None = None


_NAME = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
SETTINGS = {
    "AWS_REGION": Setting(r"[a-z]{2}(-[a-z]+)+-\d", "a region, like us-west-2"),
    "AVAILABILITY_ZONE": Setting(r"[a-z]{2}(-[a-z]+)+-\d[a-z]", "the zone of nodes and file system, like us-west-2a"),
    "BUCKET": Setting(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name, without s3://"),
    "DATA_PREFIX": Setting(r"[A-Za-z0-9][A-Za-z0-9._/-]*[A-Za-z0-9]", "the data set's folder in the bucket", "coco"),
    "IMAGE": Setting(r"[a-z0-9][\w./:@-]*[:@][\w.:-]+", "the training image with its tag: REGISTRY/NAME:TAG"),
    "CLUSTER_NAME": Setting(r"[A-Za-z][A-Za-z0-9-]{0,99}", "the EKS cluster's name"),
    "KUBERNETES_VERSION": Setting(r"1\.\d\d", "the cluster's Kubernetes version, like 1.35", "1.35"),
    "NAMESPACE": Setting(_NAME, "the Kubernetes namespace of the jobs", "mrcnn"),
    "NODE_TYPE": Setting(r"[a-z0-9-]+\.[a-z0-9-]+", "an EC2 instance type with GPUs and EFA", "p4d.24xlarge"),
    "NODES": Setting(r"[1-9]\d*", "the number of GPU nodes", "4"),
    "SUBNET_ID": Setting(r"subnet-[0-9a-f]{8,17}", "a subnet, subnet-..."),
    "SECURITY_GROUP_ID": Setting(r"sg-[0-9a-f]{8,17}", "a security group, sg-..."),
    "FSX_ID": Setting(r"fs-[0-9a-f]{8,17}", "an FSx for Lustre file system, fs-..."),
    "FSX_MOUNT_NAME": Setting(r"[a-z0-9]{1,8}", "that file system's mount name (describe-file-systems shows it)"),
    "FSX_GIB": Setting(r"[1-9]\d*", "the size of a new file system in GiB: 1200, or a multiple of 2400", "1200"),
    "SAGEMAKER_ROLE": Setting(r"arn:aws[a-z-]*:iam::\d{12}:role/\S+", "the role of the training job, arn:aws:iam::..."),
    "SAGEMAKER_IMAGE": Setting(r"[a-z0-9][\w./:@-]*[:@][\w.:-]+", "the image of docker/sagemaker.Dockerfile, with tag"),
}


def read_settings(file: Path | None = None, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the settings by name: defaults, replaced by the file (`infra/cloud.env`), replaced by the environment.

    Raises:
        SettingsError: a line of the file is not NAME=value, or names something that is not a setting.
    """
    file = FILE if file is None else file
    values = {name: setting.default for name, setting in SETTINGS.items() if setting.default is not None}
    if file.exists():
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            name, equals, value = text.partition("=")
            if not equals or name not in SETTINGS:
                raise SettingsError(f"{file}:{number}: {text!r}: expected NAME=value, with a name of cloud.env.example")
            values[name] = value.strip().strip("\"'")
    variables = os.environ if environment is None else environment
    values.update({name: variables[name] for name in SETTINGS if variables.get(name)})
    return {name: value for name, value in values.items() if value}


def require(name: str, settings: Mapping[str, str], *, user: str) -> str:
    """Return one setting, checked.

    Args:
        user: what needs it, for the message.

    Raises:
        SettingsError: it is missing or malformed.
    """
    setting = SETTINGS[name]
    value = settings.get(name)
    if not value:
        raise SettingsError(f"{user} needs {name}, {setting.meaning}: set it in infra/cloud.env")
    if not re.fullmatch(setting.pattern, value):
        raise SettingsError(f"{name}={value} in infra/cloud.env or the environment: expected {setting.meaning}")
    return value


def fill(text: str, settings: Mapping[str, str], *, user: str) -> str:
    """Return the text with each `${NAME}` replaced.

    Raises:
        SettingsError: a setting is missing or malformed, or the text names one that does not exist.
    """
    return string.Template(text).substitute(_Required(settings, user))


class _Required(dict[str, str]):
    """Looks settings up with `require`."""

    def __init__(self, settings: Mapping[str, str], user: str) -> None:
        super().__init__(settings)
        self._user = user

    def __getitem__(self, name: str) -> str:
        if name not in SETTINGS:
            raise SettingsError(f"{self._user}: {name} is not a setting of cloud.env.example")
        return require(name, dict(self), user=self._user)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the files, filled in; a missing setting is one line on stderr and exit code 2."""
    files = [Path(name) for name in (sys.argv[1:] if arguments is None else arguments)]
    try:
        if not files:
            raise SettingsError("usage: python -m infra.settings FILE...")
        settings = read_settings()
        texts = [fill(file.read_text(encoding="utf-8"), settings, user=str(file)) for file in files]
    except (SettingsError, OSError) as error:
        print(f"infra.settings: {error}", file=sys.stderr)
        return 2
    print("---\n".join(texts), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
