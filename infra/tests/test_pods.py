"""The chart's commands on two hosts (network namespaces), with the hostfile, names and key that the MPI operator gives.

mpirun and ssh are real; a stand-in trains. Needs root, Open MPI and OpenSSH.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess

import pytest
import yaml

from infra.tests import fake_job
from infra.tests.fake_job import log

hosts = pytest.importorskip("infra.tests.hosts")

LAUNCHER, WORKER = "run1-launcher.run1.jobs.svc", "run1-worker-0.run1.jobs.svc"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mpirun") or not shutil.which("sshd", path="/usr/sbin"),
    reason="needs root, mpirun and sshd",
)


@pytest.fixture(scope="module")
def job(helm):
    """The rendered MPIJob of two machines with two processes each; root, since these hosts have no other user."""
    values = {
        "image": "r/n:1", "nodes": 2, "slotsPerWorker": 2, "gpu": False, "efa": 0, "home": "/root",
        "env": {"FAKE_LOG": "log", "FAKE_CODE": "0"},
    }  # fmt: skip
    code, out, err = helm("template", "run1", "infra/eks/chart", "-f", "-", stdin=yaml.safe_dump(values))
    assert code == 0, err
    return next(item for item in yaml.safe_load_all(out) if item and item["kind"] == "MPIJob")


def container(job, role, tmp_path):
    """Environment and command of a pod's container, with paths of this machine for its mounts."""
    found = job["spec"]["mpiReplicaSpecs"][role]["template"]["spec"]["containers"][0]
    environment = {entry["name"]: entry["value"] for entry in found["env"]}
    words = json.dumps([environment, [*found["command"], *found.get("args", ())]])
    words = words.replace("/fsx/", f"{tmp_path}/fsx/").replace("/etc/mrcnn/", f"{tmp_path}/scripts/")
    environment, command = json.loads(words)
    return environment, command


@pytest.fixture
def pods(tmp_path, root, job):
    """Two hosts; the worker serves ssh. Gives a function that starts the launcher, with more environment."""
    shutil.copytree(root / "infra/eks/chart/files", tmp_path / "scripts")
    shell = fake_job.install(tmp_path)
    (tmp_path / "bin" / "mpirun").unlink()  # the real one
    with hosts.Hosts(tmp_path / "hosts", (LAUNCHER, WORKER)) as both:
        key = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", "", "-f", key], check=True)
        for host in both:
            ssh = host.folder / "ssh"
            for path in ssh.iterdir():
                path.unlink()
            shutil.copy(key, ssh / "id_rsa")
            for name in ("id_rsa.pub", "authorized_keys"):
                shutil.copy(f"{key}.pub", ssh / name)
        hostfile = tmp_path / "hostfile"
        hostfile.write_text(f"{LAUNCHER} slots=2\n{WORKER} slots=2\n")
        environment, command = container(job, "Worker", tmp_path)
        started = [both[WORKER].start(command, env={**shell, **environment})]

        def launch(**more):
            environment, command = container(job, "Launcher", tmp_path)
            operator = {
                "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
                "OMPI_MCA_orte_default_hostfile": str(hostfile),
                "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
                "OMPI_MCA_orte_set_default_slots": "2",
                "K_MPI_JOB_ROLE": "launcher",
                "OMPI_ALLOW_RUN_AS_ROOT": "1",
                "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            }
            log = {"FAKE_LOG": str(tmp_path / "log")}
            variables = {**shell, **environment, **operator, **log, **more}
            for name in [name for name, value in variables.items() if value is None]:
                del variables[name]
            process = both[LAUNCHER].start(command, env=variables, stderr=subprocess.PIPE)
            started.append(process)
            return process

        yield both, launch
    for process in started:
        process.wait()


def signal_launcher(both, number):
    """Send a signal to launch.sh from inside its host, as the kubelet does to process 1."""
    both[LAUNCHER].run(["pkill", f"-{number}", "-f", "scripts/launch.sh"])


def test_four_ranks_on_two_hosts_run_and_end(pods, tmp_path):
    _, launch = pods
    process = launch()
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    ranks = sorted((tmp_path / "log.ranks").read_text().splitlines())
    assert ranks == [f"0 4 {LAUNCHER}", f"1 4 {LAUNCHER}", f"2 4 {WORKER}", f"3 4 {WORKER}"]
    lines = log(tmp_path, "train", 4)
    assert sum(line.startswith("preflight ") for line in lines) == 4
    run_dir = f"{tmp_path}/fsx/runs/run1"
    assert f"train +experiment=32x4_24ep data.root={tmp_path}/fsx/coco run.dir={run_dir} resume=auto" in lines


def test_sigterm_to_the_launcher_stops_the_job_with_143(pods, tmp_path):
    both, launch = pods
    process = launch(FAKE_CODE=None)
    log(tmp_path, "ready", 4)
    signal_launcher(both, signal.SIGTERM.value)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert log(tmp_path, "stopped", 1)


def test_a_worker_that_is_drained_stops_its_ranks_and_the_job_goes_on_later(pods, tmp_path, job):
    both, launch = pods
    process = launch(FAKE_CODE=None)
    log(tmp_path, "ready", 4)
    environment, _ = container(job, "Worker", tmp_path)
    hook = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]
    command = hook["exec"]["command"]
    both[WORKER].run(
        [str(tmp_path / "scripts" / "stop.sh"), *command[1:]], env={**os.environ, **environment,
        "RUN_DIR": f"{tmp_path}/fsx/runs/run1"}, timeout=60,
    )  # fmt: skip
    assert log(tmp_path, "stopped", 1)
    process.communicate(timeout=60)
    assert process.returncode != 0
    again = launch()
    again.communicate(timeout=90)
    assert again.returncode == 0


def test_no_secret_is_on_a_command_line(pods, tmp_path):
    both, launch = pods
    process = launch(FAKE_CODE=None, AWS_SECRET_ACCESS_KEY="do-not-show", WANDB_API_KEY="do-not-show")
    log(tmp_path, "ready", 4)
    for host in both:
        shown = host.run(["ps", "-eww", "-o", "args"]).stdout
        assert "mrcnn_train" in shown
        assert "do-not-show" not in shown
        ranks = host.run(["bash", "-c", shlex.join(["pgrep", "-f", "python.* -m mrcnn_train "])]).stdout.split()
        for rank in ranks[-1:]:
            environment = host.run(["cat", f"/proc/{rank}/environ"]).stdout
            assert host.name == LAUNCHER or "do-not-show" not in environment
    signal_launcher(both, signal.SIGTERM.value)
    process.communicate(timeout=60)
