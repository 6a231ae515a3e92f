"""Hosts of a job, the link of a process to its launcher, facts about machines, and the lock of a run directory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from mrcnn_train import ConfigError
from mrcnn_train.job.facts import environment_variables, git_facts, host_facts, software_facts
from mrcnn_train.job.hosts import (
    BOOTSTRAP,
    Host,
    Ssh,
    address_of_interface,
    addresses_of,
    interface_of,
    is_local,
    own_address_toward,
    parse_hosts,
    start,
)
from mrcnn_train.job.launch import meeting_points, passed_variables
from mrcnn_train.job.link import LINKED
from mrcnn_train.preflight.comparison import differences, shortcomings
from mrcnn_train.record.environment import read_launches, write_environment
from mrcnn_train.record.lock import locked


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("a:8", Host("a", 8)),
        ("10.0.0.7:1", Host("10.0.0.7", 1)),
        ("node-1.cluster.local:4", Host("node-1.cluster.local", 4)),
        ("me@node_2:16", Host("node_2", 16, "me")),
    ],
)
def test_hosts_as_written(written: str, host: Host) -> None:
    assert parse_hosts([written]) == [host]


@pytest.mark.parametrize(
    "written",
    [
        *("a", "a:", "a:0", ":8", "a:8:8", "a:-1", "a:1e3", "a:999999", "@a:1", "me@@a:1", "a:1 ", " a:1", ""),
        *("-oProxyCommand=x:8", "-l@a:1", "me@-oProxyCommand=x:1", "a b:2", "a;id:2", "$(id):1", "`id`:1", "a|b:1"),
        *("a/b:1", "[::1]:1", "a\n:1", "a:1\n", "a\0:1", "a\x1b[2J:1", "ä:1", "a:١", "a\u202e:1"),  # noqa: RUF001
    ],
)
def test_what_is_no_host_is_refused(written: str) -> None:
    with pytest.raises(ConfigError, match=r"launch\.hosts has"):
        parse_hosts([written])


def test_a_host_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="each host once"):
        parse_hosts(["a:1", "a:2"])


def test_ssh_asks_nothing_and_quotes() -> None:
    command = Ssh(2222, "key file").command(Host("b", 1, "me"), "python", "-c", "print('x y')")
    assert command[0] == "ssh"
    assert command[-2:] == ["b", "python -c 'print('\"'\"'x y'\"'\"')'"]
    assert "BatchMode=yes" in command
    for pair in (["-p", "2222"], ["-i", "key file"], ["-l", "me"]):
        assert command[command.index(pair[0]) + 1] == pair[1]


def test_addresses_of_this_machine() -> None:
    assert addresses_of([Host("localhost", 1)], Ssh()) == ["127.0.0.1"]
    assert is_local("127.0.0.1")
    assert not is_local("192.0.2.1")  # reserved for documentation
    assert own_address_toward("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert address_of_interface("lo") == "127.0.0.1"


def test_an_unknown_interface_names_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"launch.interface=eth77 has no IPv4 address here; .*lo"):
        address_of_interface("eth77")


def test_meeting_points() -> None:
    assert meeting_points(["127.0.0.1"], [True], interface=None) == ["127.0.0.1"]
    assert meeting_points(["127.0.0.1", "10.0.0.2"], [True, False], interface="lo") == ["127.0.0.1"] * 2


def test_passed_variables_are_a_list_of_names() -> None:
    environment = {"NCCL_DEBUG": "INFO", "AWS_SECRET_ACCESS_KEY": "s", "PATH": "p", "MINE": "m", "OTHER": "o"}
    assert passed_variables(environment, also=["MINE"]) == {"NCCL_DEBUG": "INFO", "PATH": "p", "MINE": "m"}
    with pytest.raises(ConfigError, match=r"launch\.environment names GONE, which is not set here"):
        passed_variables(environment, also=["GONE"])


def test_bootstrap_enters_a_folder_with_spaces_and_leaves_the_rest_of_the_pipe(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    code = "import os, sys; print(os.getcwd(), os.environ['SECRET'], sys.stdin.read(), sep='|')"
    job = {"folder": str(folder), "environment": {"SECRET": "s p"}, "arguments": ["-c", code]}
    done = subprocess.run(
        [sys.executable, "-c", BOOTSTRAP], input=json.dumps(job) + "\nthe rest", capture_output=True, text=True
    )
    assert done.stdout.strip() == f"{folder}|s p|the rest"


def test_bootstrap_names_a_folder_that_is_missing(tmp_path: Path) -> None:
    job = {"folder": str(tmp_path / "gone"), "environment": {}, "arguments": []}
    done = subprocess.run(
        [sys.executable, "-c", BOOTSTRAP], input=json.dumps(job) + "\n", capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "gone, cannot be entered on this host" in done.stderr


FOLLOWER = textwrap.dedent("""
    import signal, sys, time
    from mrcnn_train.job.link import follow_launcher
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
    signal.signal(signal.SIGINT, lambda number, frame: sys.exit(8))
    follow_launcher()
    print("ready", flush=True)
    time.sleep(60)
""")


@pytest.mark.parametrize(("sent", "code"), [(b"signal 15\n", 7), (b"signal 2\n", 8), (None, 7)])
def test_a_process_follows_its_launcher(sent: bytes | None, code: int) -> None:
    """None means that the launcher has ended, which closes its end of the pipe."""
    arguments = ["-c", FOLLOWER]
    process = start(
        Host("localhost", 1), Ssh(), arguments=arguments, environment={LINKED: "1"}, folder=".", local=True, read=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    if sent is None:
        process.stdin.close()
    else:
        process.stdin.write(sent)
        process.stdin.flush()
    assert process.wait(20) == code
    process.stdout.close()


def test_a_process_without_a_launcher_reads_nothing() -> None:
    code = "from mrcnn_train.job.link import follow_launcher; follow_launcher(); print(input())"
    done = subprocess.run([sys.executable, "-c", code], input="typed\n", capture_output=True, text=True)
    assert done.stdout == "typed\n"


def test_environment_variables_hold_no_secrets() -> None:
    environment = {
        "NCCL_DEBUG": "INFO",
        "HOROVOD_RANK": "1",
        "HOROVOD_SECRET_KEY": "abc",
        "TF_API_KEY": "abc",
        "AWS_ACCESS_KEY_ID": "abc",
        "NCCL_NET": "token=password",
        "HOME": "somewhere",
    }
    assert environment_variables(environment) == {"HOROVOD_RANK": "1", "NCCL_DEBUG": "INFO"}


def test_facts_of_this_machine() -> None:
    facts = host_facts()
    assert facts["host"] == socket.gethostname()
    assert facts["cores"] >= facts["cores_allowed"] >= 1
    software = software_facts()
    assert set(software["own_packages"]) == {"mrcnn-data", "mrcnn-ops", "mrcnn-model", "mrcnn-eval", "mrcnn-train"}
    assert "numpy" in software["packages"]


def test_git_facts_outside_of_a_checkout(tmp_path: Path) -> None:
    assert git_facts(tmp_path) == {"git_commit": None, "git_dirty": None}


def test_environment_file_lists_every_launch(tmp_path: Path) -> None:
    ranks = [{"rank": r, "host": f"h{r // 2}", "environment": {}} for r in range(4)]
    write_environment(tmp_path, ranks)
    write_environment(tmp_path, ranks[:1])
    launches = read_launches(tmp_path / "environment.json")
    assert [launch["processes"] for launch in launches] == [4, 1]
    assert [host["ranks"] for host in launches[0]["hosts"]] == [[0, 1], [2, 3]]
    assert launches[0]["own_packages"]["mrcnn-train"]


def test_environment_file_has_the_variables_of_every_rank(tmp_path: Path) -> None:
    variables = [{"TF_A": "1", "CUDA_VISIBLE_DEVICES": str(r)} | ({"TF_B": "2"} if r == 1 else {}) for r in range(3)]
    ranks = [{"rank": r, "host": "b" if r == 2 else "a", "environment": variables[r]} for r in range(3)]
    write_environment(tmp_path, ranks)
    (launch,) = read_launches(tmp_path / "environment.json")
    assert launch["hosts"] == [
        {
            "host": "a",
            "ranks": [0, 1],
            "environment": {"TF_A": "1"},
            "environment_by_rank": {
                "0": {"CUDA_VISIBLE_DEVICES": "0"},
                "1": {"CUDA_VISIBLE_DEVICES": "1", "TF_B": "2"},
            },
        },
        {"host": "b", "ranks": [2], "environment": {"CUDA_VISIBLE_DEVICES": "2", "TF_A": "1"}},
    ]


LOCKER = "import sys, time\nfrom pathlib import Path\nfrom mrcnn_train.record.lock import locked\n"
HOLD = LOCKER + "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(ConfigError, match=f"in use by process {holder.pid} on {socket.gethostname()} since"),
        locked(tmp_path),
    ):
        pytest.fail("locked twice")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} ")


def make_facts(host: str, **other: object) -> dict[str, object]:
    facts: dict[str, object] = {
        "host": host,
        "python": "3.11.7",
        "own_packages": {"mrcnn-train": "0.1.0"},
        "git_commit": None,
        "packages": {"numpy": "2.4.0"},
        "data": {"train.json": "abc", "train": "12 files"},
        "gpus": ["V100"] * 8,
        "free_gib": 100.0,
    }
    return facts | other


def test_equal_hosts_have_no_differences() -> None:
    assert differences([make_facts("a"), make_facts("b")]) == []
    assert shortcomings([make_facts("a"), make_facts("b")]) == []


def test_each_difference_is_one_line() -> None:
    other = make_facts("b", packages={"numpy": "2.2.0"}, data={"train.json": "abd", "train": "11 files"})
    assert differences([make_facts("a"), other]) == [
        "host b: numpy is 2.2.0, on a it is 2.4.0",
        "host b: train.json is abd, on a it is abc",
        "host b: train is 11 files, on a it is 12 files",
    ]


def test_shortcomings() -> None:
    data = {"train.json": "cannot be read: No such file or directory", "train": "12 files"}
    other = make_facts("b", data=data, gpus=["V100"] * 7, free_gib=1.5)
    assert shortcomings([make_facts("a"), other]) == [
        "host b: train.json cannot be read: No such file or directory",
        "host b: 1.5 GiB free where the run writes; it needs 5",
        "host b: 7 GPUs, another host has 8",
    ]
    assert differences([make_facts("a"), other]) == []


def test_the_probe_answers(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        closed = socket.create_server(("127.0.0.1", 0))
        closed_port = closed.getsockname()[1]
        closed.close()
        probe = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mrcnn_train.preflight.probe",
                str(tmp_path / "new"),
                str(tmp_path / "train.json"),
                "gone",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert probe.stdin is not None
        assert probe.stdout is not None
        facts = json.loads(probe.stdout.readline().removeprefix("mrcnn-probe "))
        assert len(facts["data"][str(tmp_path / "train.json")]) == 64
        assert facts["data"]["gone"] == "cannot be read: No such file or directory"
        assert facts["free_gib"] > 0
        peers = [
            ["open", "127.0.0.1", port],
            ["closed", "127.0.0.1", closed_port],
            ["self", "127.0.0.1", facts["port"]],
        ]
        probe.stdin.write(json.dumps(peers) + "\n")
        probe.stdin.flush()
        answer = json.loads(probe.stdout.readline().removeprefix("mrcnn-probe "))
        assert answer == {"unreached": ["closed"]}
        probe.stdin.close()
        assert probe.wait(20) == 0
        probe.stdout.close()


def test_link_survives_a_launcher_that_was_killed(tmp_path: Path) -> None:
    """After SIGKILL of the launcher, the process that it started ends."""
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        "import sys, time\nfrom mrcnn_train.job.hosts import Host, Ssh, start\n"
        f"arguments, environment = ['-c', {FOLLOWER!r}], {{'{LINKED}': '1'}}\n"
        "host = Host('localhost', 1)\n"
        "start(host, Ssh(), arguments=arguments, environment=environment, folder='.', local=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, str(launcher)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert process.stdout.read() == ""  # ends when the child, which inherited it, does
    assert time.monotonic() - began < 20
    process.stdout.close()
    process.wait()
