"""SageMaker's entry script in a faked container: options, commands, the hosts' meeting, stopping, what it leaves."""

import json
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from infra.sagemaker import entry, hosts
from infra.sagemaker.entry import main, mpirun_command, processes_per_host, read_cluster, read_overrides, save_model
from infra.sagemaker.hosts import Cluster, EntryError, ranks_here
from infra.tests import fake_job
from infra.tests.fake_job import log


@pytest.fixture
def ml(tmp_path):
    """The /opt/ml of a container, as SageMaker makes it."""
    ml = tmp_path / "ml"
    (ml / "input" / "config").mkdir(parents=True)
    for folder in ("input/data/training", "checkpoints", "model", "output"):
        (ml / folder).mkdir(parents=True)
    configure(ml, {"+experiment": "32x4_24ep"})
    return ml


def configure(ml, hyperparameters, *, current=None, names=("algo-1", "algo-2")):
    (ml / "input" / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    if current:
        content = {"current_host": current, "hosts": list(names), "network_interface_name": "eth7"}
        (ml / "input" / "config" / "resourceconfig.json").write_text(json.dumps(content))


def own(ml, *, root=True):
    return [*([f"data.root={ml}/input/data/training"] if root else []), f"run.dir={ml}/checkpoints/run", "resume=auto"]


@pytest.mark.parametrize(
    ("hyperparameters", "expected"),
    [
        ({"+experiment": "32x4_24ep", "train.max_steps": "5"}, ["+experiment=32x4_24ep", "train.max_steps=5"]),
        ({"experiment": '"8x4_12ep"'}, ["+experiment=8x4_12ep"]),  # as text in JSON
        (
            {"+experiment": "demo", "a": "[1, 2]", "b": 0.5, "c": True, "d": "null", "e": "x=y z"},
            ["+experiment=demo", "a=[1, 2]", "b=0.5", "c=true", "d=null", "e=x=y z"],
        ),
        ({"+experiment": "demo", "~data.synthetic": ""}, ["+experiment=demo", "~data.synthetic"]),
        ({"+experiment": "demo", "sagemaker_region": "us-west-2"}, ["+experiment=demo"]),
    ],
)
def test_hyperparameters_become_overrides(ml, hyperparameters, expected):
    configure(ml, hyperparameters)
    assert read_overrides(ml, ["train"]) == [*expected, *own(ml)]


def test_arguments_of_a_driver_become_overrides(ml):
    arguments = ["--+experiment", "demo", "--train.max_steps=5", "--optimizer.base_lr", "-1"]
    expected = ["+experiment=demo", "train.max_steps=5", "optimizer.base_lr=-1"]
    assert read_overrides(ml, arguments) == [*expected, *own(ml)]


def test_data_lies_in_the_channel_unless_told_otherwise(ml):
    configure(ml, {"+experiment": "demo", "data.root": "/fsx/coco"})
    assert read_overrides(ml) == ["+experiment=demo", "data.root=/fsx/coco", *own(ml, root=False)]
    configure(ml, {"+experiment": "demo"})
    (ml / "input" / "data" / "training").rmdir()
    assert read_overrides(ml) == ["+experiment=demo", *own(ml, root=False)]


@pytest.mark.parametrize("name", ["run.dir", "resume", "launch.processes", "+launch.hosts"])
def test_an_option_that_is_set_here_is_refused_by_name(ml, name):
    configure(ml, {"+experiment": "demo", name: "x"})
    with pytest.raises(EntryError, match=f"hyperparameter {name.lstrip('+')} is set"):
        read_overrides(ml)


@pytest.mark.parametrize("arguments", [["experiment=demo"], ["--+experiment"], ["--train.max_steps", "5"]])
def test_arguments_that_are_no_options_are_refused(ml, arguments):
    with pytest.raises(EntryError, match=r"expected --key value|has no value|experiment is missing"):
        read_overrides(ml, arguments)


def test_hosts_come_from_the_resource_file(ml):
    configure(ml, {}, current="algo-2", names=["algo-2", "algo-1"])
    cluster = read_cluster(ml)
    assert cluster == Cluster("algo-2", ["algo-1", "algo-2"], "eth7")
    assert not cluster.leads
    configure(ml, {}, current="algo-1")
    assert read_cluster(ml).leads


@pytest.mark.parametrize("content", ["{", "[]", '{"hosts": ["a"]}', '{"hosts": ["a"], "current_host": "b"}'])
def test_a_broken_resource_file_is_named(ml, content):
    (ml / "input" / "config" / "resourceconfig.json").write_text(content)
    with pytest.raises(EntryError, match=r"resourceconfig\.json"):
        read_cluster(ml)


def test_processes_are_gpus(tmp_path):
    assert processes_per_host({}, tmp_path) == 1
    assert processes_per_host({"SM_NUM_GPUS": "0"}, tmp_path) == 1
    assert processes_per_host({"SM_NUM_GPUS": "8"}, tmp_path) == 8
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia10"):
        (tmp_path / name).touch()
    assert processes_per_host({}, tmp_path) == 3


def test_ranks_are_counted_over_all_hosts():
    cluster = Cluster("algo-1", ["algo-1", "algo-2"], "eth7")
    environment = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x"}
    command = mpirun_command(cluster, slots=8, keys=Path("/k"), environment=environment)
    words = " ".join(command)
    assert command[command.index("--host") + 1] == "algo-1:8,algo-2:8"
    assert command[command.index("-np") + 1] == "16"
    assert "btl_tcp_if_include eth7" in words
    assert "oob_tcp_if_include eth7" in words
    assert "-x NCCL_SOCKET_IFNAME=eth7 -x PATH" in words
    assert "-i /k/id -o UserKnownHostsFile=/k/known_hosts" in words
    assert "SECRET" not in words


class NotStopped:
    received = False


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def ports(monkeypatch):
    port = free_port()
    for module in (entry, hosts):
        monkeypatch.setattr(module, "SSH_PORT", port)
    monkeypatch.setattr(hosts, "MEETING_PORT", free_port())


LOGS_IN = """
import shlex, subprocess
rsh = shlex.split(arguments[arguments.index("plm_rsh_args") + 1])
port = rsh[rsh.index("-p") + 1]
alias = ["-o", "HostName=127.0.0.1", "-o", f"HostKeyAlias=[other]:{port}", "-o", "BatchMode=yes"]
done = subprocess.run(["ssh", "-F", "none", *rsh, *alias, "other", "echo logged in"], capture_output=True, text=True)
print(done.stdout, done.stderr, file=open(os.environ["FAKE_LOG"] + ".ssh", "a"))
"""


@pytest.mark.skipif(not shutil.which("sshd", path="/usr/sbin"), reason="no ssh server here")
def test_the_leading_host_can_log_in_to_the_others(ml, tmp_path, monkeypatch, ports):
    for name, value in fake_job.install(tmp_path, hook=LOGS_IN).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FAKE_CODE", "5")
    names = ["localhost", "other"]
    codes = {}

    def run(role, function):
        codes[role] = function()

    overrides = ["+experiment=demo", f"run.dir={tmp_path}/run"]
    lead = threading.Thread(
        target=run, args=("lead", lambda: entry.lead(Cluster("localhost", names, "lo"), overrides, NotStopped()))
    )
    follow = threading.Thread(
        target=run, args=("follow", lambda: hosts.follow(Cluster("other", names, "lo"), NotStopped()))
    )
    for thread in (lead, follow):
        thread.start()
    for thread in (lead, follow):
        thread.join(30)
    # The other host receives the exit code of the job, and its ssh server ends.
    assert codes == {"lead": 5, "follow": 5}
    assert "logged in" in (tmp_path / "log.ssh").read_text()
    log = (tmp_path / "log").read_text().splitlines()
    options = f"+experiment=demo run.dir={tmp_path}/run"
    assert log == [f"preflight {options}", f"train {options}", "ready"]
    with pytest.raises(OSError):  # noqa: PT011 - of the system
        socket.create_connection(("localhost", hosts.SSH_PORT), timeout=1)


def test_a_host_that_does_not_come_is_named(monkeypatch, ports):
    monkeypatch.setattr(hosts, "MEETING_SECONDS", 0)
    with pytest.raises(EntryError, match="no connection from algo-2, algo-3 in 0 s"):
        entry.lead(Cluster("algo-1", ["algo-1", "algo-2", "algo-3"], "lo"), [], NotStopped())


def test_a_leading_host_that_does_not_answer_is_named(monkeypatch, ports):
    monkeypatch.setattr(hosts, "MEETING_SECONDS", 0)
    with pytest.raises(EntryError, match=r"^localhost:\d+, the first host, cannot be reached"):
        hosts.follow(Cluster("other", ["localhost", "other"], "lo"), NotStopped())


def test_a_leading_host_that_is_lost_ends_the_others(monkeypatch, ports):
    server = socket.create_server(("", hosts.MEETING_PORT))

    def accept_and_die():
        link, _ = server.accept()
        link.close()
        server.close()

    thread = threading.Thread(target=accept_and_die)
    thread.start()
    with pytest.raises((EntryError, ConnectionError), match=r"connection to another host ended|reset"):
        hosts.follow(Cluster("other", ["localhost", "other"], "lo"), NotStopped())
    thread.join()


@pytest.fixture
def container(ml, tmp_path):
    """A function that starts the entry script as the container would, with more environment; gives the process."""
    variables = {**fake_job.install(tmp_path), "MRCNN_OPT_ML": str(ml)}
    with fake_job.starting([sys.executable, "-m", "infra.sagemaker.entry", "train"], variables) as start:
        yield start


def test_a_job_runs_to_its_end_and_leaves_the_best_model(container, ml, tmp_path):
    process = container(FAKE_CODE="0")
    process.communicate(timeout=30)
    assert process.returncode == 0
    lines = log(tmp_path, "train")
    options = f"+experiment=32x4_24ep {' '.join(own(ml))}"
    assert lines[:2] == [f"preflight {options}", f"train {options}"]
    assert sorted(path.name for path in (ml / "model").iterdir()) == ["model.json", "model.safetensors"]
    assert not (ml / "output" / "failure").exists()


def test_sigterm_lets_the_ranks_save_and_the_same_job_goes_on(container, ml, tmp_path):
    process = container()
    log(tmp_path, "ready")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert log(tmp_path, "stopped")
    assert (ml / "checkpoints" / "run" / "checkpoints" / "step-00000003" / "trainer.json").exists()
    assert "143" in (ml / "output" / "failure").read_text()
    assert list((ml / "model").iterdir()) == []
    again = container(FAKE_CODE="0")
    again.communicate(timeout=30)
    assert again.returncode == 0
    assert [line.split()[-1] for line in log(tmp_path, "train") if line.startswith("train")] == ["resume=auto"] * 2


def test_a_failed_preflight_starts_no_training(container, ml, tmp_path):
    process = container(FAKE_PREFLIGHT="2")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "the preflight failed" in errors
    assert [line.split()[0] for line in log(tmp_path, "preflight")] == ["preflight"]


def test_a_failure_is_told_to_sagemaker(ml, capsys):
    configure(ml, {"+experiment": "demo", "resume": "x"})
    previous = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["train"], ml) == 2
    finally:
        signal.signal(signal.SIGTERM, previous)
    reason = "entry.py: hyperparameter resume is set by infra/sagemaker/entry.py: leave it out\n"
    assert (ml / "output" / "failure").read_text() == reason
    assert capsys.readouterr().err == reason


def test_only_ranks_of_this_run_are_stopped(tmp_path):
    def process(pid, *words):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")

    run_dir = Path("/opt/ml/checkpoints/run")
    process("1", "mpirun", "-np", "8", "python", "-m", "mrcnn_train", f"run.dir={run_dir}")
    process("2", "/usr/bin/python3", "-m", "mrcnn_train", "+experiment=demo", f"run.dir={run_dir}")
    process("3", "python", "-m", "mrcnn_train", f"run.dir={run_dir}2")
    process("4", "python", "-m", "mrcnn_train.preflight", f"run.dir={run_dir}")
    process("5", "")
    assert ranks_here(run_dir, tmp_path) == [2]


def test_without_a_best_the_newest_checkpoint_is_the_model(ml):
    for number in (1, 2):
        step = ml / "checkpoints" / "run" / "checkpoints" / f"step-0000000{number}"
        step.mkdir(parents=True)
        for name in ("model.safetensors", "model.json"):
            (step / name).write_text(str(number))
    save_model(ml)
    assert (ml / "model" / "model.json").read_text() == "2"
