"""The images, built for real by buildah: root, Debian, half an hour. `make test-docker`.

The base is a small Debian made by mmdebstrap instead of the images that the Dockerfiles name, which lie in registries.
What cannot be tried on a machine is printed with the reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
TOOLS = ("buildah", "mmdebstrap")
CUDA = Path("/usr/local/cuda")
# Where this machine's package clients find their certificates and settings; the base gets the same.
SETTINGS = ("/etc/apt/apt.conf.d", "/etc/pip.conf", "/etc/xdg/pip", "/usr/local/share/ca-certificates")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
DEMO = ("+experiment=demo", "train.max_steps=3", "eval.limit=2", "log.every=1", "run.dir=outputs/run")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="buildah with chroot isolation needs root"),
    pytest.mark.skipif(
        not all(map(shutil.which, TOOLS)), reason=f"needs Debian's {' and '.join(TOOLS)}: apt-get install"
    ),
]


class Buildah:
    """buildah with a separate store, policy and scratch space."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tmp").mkdir()
        self._policy = folder / "policy.json"
        self._policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        store = ["--root", folder / "root", "--runroot", folder / "run", "--storage-driver", "vfs"]
        self._command = ["buildah", *map(str, store)]

    def __call__(self, *arguments: str | Path, timeout: float = 3600) -> str:
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self.folder / "tmp")}
        done = subprocess.run(
            [*self._command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            timeout=timeout,
        )
        assert done.returncode == 0, f"buildah {' '.join(map(str, arguments))}\n{done.stdout[-8000:]}"
        return done.stdout

    def build(self, dockerfile: str, tag: str, **arguments: str) -> None:
        options = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        policy: list[str | Path] = ["--signature-policy", self._policy]
        self("bud", *policy, *options, "-f", ROOT / "docker" / dockerfile, "-t", tag, ROOT, timeout=3 * 3600)

    def base(self, tag: str, folders: Sequence[tuple[Path, str]]) -> None:
        """Make an image of archives and folders, each at its place."""
        container = self("from", "scratch").split()[-1]
        for source, place in folders:
            self("add", container, source, place)
        # For pip and curl in every stage, as in this machine's own environment.
        names = ("PIP_CERT", "PIP_INDEX_URL", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        environment = [f"--env={name}={os.environ[name]}" for name in names if name in os.environ]
        self("config", *environment, container)
        self("commit", "--rm", container, tag)

    def container(self, image: str) -> str:
        return self("from", "--pull-never", image).split()[-1]

    def run(self, container: str, *command: str) -> str:
        return self("run", container, "--", *command)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    folder = tmp_path_factory.mktemp("buildah")
    yield Buildah(folder)
    shutil.rmtree(folder, ignore_errors=True)  # gigabytes


@pytest.fixture(scope="module")
def debian(buildah: Buildah) -> Path:
    """An archive of a small Debian of this machine's release, with this machine's settings for apt and pip."""
    sources = [path for pattern in ("*.list", "*.d/*.list", "*.d/*.sources") for path in Path("/etc/apt").glob(pattern)]
    release = next(line for line in Path("/etc/os-release").read_text().splitlines() if "VERSION_CODENAME" in line)
    kept = " ".join(path[1:] for path in (*SETTINGS, *map(str, sources)) if Path(path).exists())
    archive = buildah.folder / "debian.tar"
    # In place of mmdebstrap's own sources.list; the certificates last, when ca-certificates is set up.
    hooks = [
        f'--customize-hook=rm -rf "$1"/etc/apt/sources.list*; tar -C / -c {kept} | tar -C "$1" -x',
        '--customize-hook=chroot "$1" update-ca-certificates',
    ]
    included = "--include=ca-certificates"
    command: list[str | Path] = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        included,
        *hooks,
        release.partition("=")[2],
        archive,
    ]
    subprocess.run([*command, *sources], check=True)
    return archive


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """The environment of clients of a local S3 (moto) whose bucket `our-bucket` is empty."""
    tools = ROOT / ".infra" / "bin"
    if not (tools / "moto_server").exists():
        pytest.skip("no moto: make test-docker installs it in .infra")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    environment = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}", **dict.fromkeys(names, "us-east-1")}
    server = subprocess.Popen([tools / "moto_server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        make_bucket = "import boto3; boto3.client('s3').create_bucket(Bucket='our-bucket')"
        deadline = time.monotonic() + 60
        while subprocess.run([tools / "python", "-c", make_bucket], env=environment, capture_output=True).returncode:
            assert time.monotonic() < deadline, "moto's server does not start"
        yield environment
    finally:
        server.terminate()
        server.wait()


def check_staging(buildah: Buildah, container: str, s3: dict[str, str], folder: Path) -> None:
    """Run the command of infra/eks/stage.yaml in an image, for a data set that is in the bucket."""
    (folder / "val2017").mkdir(parents=True)
    (folder / "val2017" / "1.jpg").write_bytes(b"image")
    tool: list[str | Path] = [ROOT / ".infra/bin/python", "-m", "infra.data.stage"]
    subprocess.run([*tool, "up", folder, "s3://our-bucket/coco"], cwd=ROOT, env={**os.environ, **s3}, check=True)
    text = (ROOT / "infra/eks/stage.yaml").read_text().replace("${BUCKET}/${DATA_PREFIX}", "our-bucket/coco")
    (job,) = yaml.safe_load(re.sub(r"\$\{\w+\}", "x", text))["spec"]["template"]["spec"]["containers"]
    *command, target = job["command"]
    assert target == "/fsx/coco"
    variables = [f"--env={name}={value}" for name, value in s3.items()]
    home = "/home/mrcnn/coco"
    buildah("run", *variables, "--workingdir", job["workingDir"], container, "--", *command, home)
    assert buildah.run(container, "cat", f"{home}/val2017/1.jpg").endswith("image")


def cannot(what: str, why: str) -> None:
    print(f"\nnot tried here: {what}: {why}", flush=True)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint(dockerfile: Path) -> None:
    hadolint = shutil.which("hadolint", path=f"{ROOT / '.infra' / 'bin'}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("no hadolint: make test-docker installs it in .infra")
    done = subprocess.run([hadolint, dockerfile], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout


def test_cpu_image_trains_goes_on_and_evaluates(
    buildah: Buildah, debian: Path, s3: dict[str, str], tmp_path: Path
) -> None:
    buildah.base("localhost/debian", [(debian, "/")])
    buildah.build("cpu.Dockerfile", "localhost/mrcnn:cpu", BASE="localhost/debian")
    container = buildah.container("localhost/mrcnn:cpu")
    assert buildah.run(container, "id", "-un").split()[-1] == "mrcnn"
    train = ("python", "-m", "mrcnn_train")
    output = buildah.run(container, *train, *DEMO)
    assert "step 3/3" in output
    output = buildah.run(container, *train, "resume=outputs/run", "train.max_steps=5")
    assert "step 5/5" in output
    output = buildah.run(container, "mrcnn-eval", "--checkpoint", "outputs/run", "--batch-size", "1")
    assert re.search(r"AP", output), output
    two = ("launch.processes=2", "train.images_per_gpu=2", "data.val=null")
    pair = buildah.run(container, *train, *DEMO[:-1], "run.dir=outputs/pair", *two)
    assert "2 processes" in pair
    assert (
        buildah.run(container, "bash", "-c", "command -v mpirun && ls /usr/sbin/sshd").split()[-1] == "/usr/sbin/sshd"
    )
    check_staging(buildah, container, s3, tmp_path / "data")
    buildah("push", "localhost/mrcnn:cpu", f"oci:{buildah.folder / 'oci'}:cpu")
    assert (buildah.folder / "oci" / "index.json").exists()
    shutil.rmtree(buildah.folder / "oci")


@pytest.mark.skipif(not (CUDA / "bin" / "nvcc").exists(), reason="no nvcc at /usr/local/cuda: the ops need it")
def test_train_image_builds_as_far_as_it_can_here(
    buildah: Buildah, debian: Path, s3: dict[str, str], tmp_path: Path
) -> None:
    version = subprocess.run([CUDA / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    major = int(re.search(r"release (\d+)", version)[1])  # type: ignore[index]
    buildah.base("localhost/debian-cuda", [(debian, "/"), (CUDA.resolve(), "/usr/local/cuda")])
    buildah.base("localhost/debian-run", [(debian, "/")])
    buildah.build(
        "train.Dockerfile", "localhost/mrcnn:gpu", BASE="localhost/debian-cuda", RUN_BASE="localhost/debian-run"
    )
    container = buildah.container("localhost/mrcnn:gpu")
    assert buildah.run(container, "id", "-u").split()[-1] == "1000"
    ask = (
        "import json, horovod.tensorflow as horovod, mrcnn_ops; "
        "print(json.dumps([bool(horovod.nccl_built()), bool(horovod.mpi_built()), mrcnn_ops.build_info()['cuda']]))"
    )
    has_nccl, has_mpi, kernels = json.loads(buildah.run(container, "python", "-c", ask).splitlines()[-1])
    assert (has_nccl, has_mpi) == (True, True)
    for capability in ("75", "80", "90", "100", "120"):
        assert re.search(rf"\b{capability}\b", kernels), kernels
    check_staging(buildah, container, s3, tmp_path / "data")
    if major >= 13:
        cannot("CUDA kernels for compute capability 7.0 (V100)", f"nvcc {major} has dropped it; CUDA 12.9 builds it")
        assert not re.search(r"\b70\b", kernels)
    else:
        assert re.search(r"\b70\b", kernels), kernels
    cannot("running on a GPU", "no driver here" if not Path("/proc/driver/nvidia").exists() else "see make gpu-check")
    cannot("EFA_VERSION=1.51.0", "AWS's installer is not reachable from a machine that only has package registries")
    cannot("docker/sagemaker.Dockerfile", "its base lies in AWS's registry; hadolint has read it")
