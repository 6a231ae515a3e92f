"""SageMaker's entry script on two hosts (network namespaces), each with its own /opt/ml. mpirun and ssh are real.

A stand-in trains; test_real_training.py trains.
"""

import pytest

from infra.tests import fake_job
from infra.tests.containers import INSTANCES, Instances, ended, needs_hosts
from infra.tests.fake_job import log

pytestmark = needs_hosts


@pytest.fixture
def job(tmp_path):
    shell = fake_job.install(tmp_path)
    (tmp_path / "bin" / "mpirun").unlink()  # the real one
    del shell["FAKE_LOG"]
    with Instances(tmp_path, {"+experiment": "demo", "train.max_steps": "5"}, shell) as job:
        yield job


def test_four_ranks_on_two_hosts_run_and_leave_the_model(job, tmp_path):
    (tmp_path / "code").write_text("0")
    assert ended(job.start(ranks_per_host=2)) == {"algo-1": 0, "algo-2": 0}
    ranks = sorted((tmp_path / "log.ranks").read_text().splitlines())
    assert ranks == ["0 4 algo-1", "1 4 algo-1", "2 4 algo-2", "3 4 algo-2"]
    options = "+experiment=demo train.max_steps=5"
    places = f"data.root={job.place}/input/data/training run.dir={job.place}/checkpoints/run"
    assert f"train {options} {places} resume=auto" in log(tmp_path, "train", 4)
    model = job.folders["algo-1"] / "model"
    assert sorted(path.name for path in model.iterdir()) == ["model.json", "model.safetensors"]
    assert list((job.folders["algo-2"] / "model").iterdir()) == []


@pytest.mark.parametrize("name", INSTANCES)
def test_sigterm_to_either_host_stops_the_job_and_it_goes_on_later(job, tmp_path, name):
    processes = job.start(ranks_per_host=2)
    log(tmp_path, "ready", 4)
    job.stop(name)
    codes = ended(processes)
    assert codes[name] == 143
    assert 0 not in codes.values(), "a pre-empted job must not look finished"
    assert log(tmp_path, "stopped")
    assert (job.folders[name] / "checkpoints" / "run" / "checkpoints" / "step-00000003" / "trainer.json").exists()
    (tmp_path / "code").write_text("0")
    assert ended(job.start(ranks_per_host=2)) == {"algo-1": 0, "algo-2": 0}


def test_a_host_that_is_lost_ends_the_others(job, tmp_path):
    processes = job.start(ranks_per_host=2)
    log(tmp_path, "ready", 4)
    job.hosts["algo-2"].power_off()
    processes["algo-2"].communicate(timeout=60)
    processes["algo-1"].communicate(timeout=90)
    assert processes["algo-1"].returncode != 0
    assert (job.folders["algo-1"] / "output" / "failure").read_text()


def test_no_secret_is_on_a_command_line(job, tmp_path):
    processes = job.start(ranks_per_host=2)
    log(tmp_path, "ready", 4)
    for host in job.hosts:
        shown = host.run(["ps", "-eww", "-o", "args"]).stdout
        assert "-m mrcnn_train" in shown
        assert "do-not-show" not in shown
    job.stop("algo-1")
    ended(processes)
