"""The scaling model, compared with values computed by hand and with the published hours that it is fitted to."""

import dataclasses
import math
import re

import pytest

from infra.scaling import (
    GPUS,
    MACHINES,
    PUBLISHED,
    Assumptions,
    exchange_seconds,
    expected_maximum,
    main,
    predict,
    table,
)

PLAIN = Assumptions(
    images_per_second=10.0,
    spread=0.0,
    start_hours=0.0,
    overlap=0.0,
    node_gbits=8.0,  # 1 GB/s
    link_gbytes=10.0,
    latency_us=0.0,
    gradient_bytes=1e9,
    evaluations=0,
)


def test_expected_maximum_of_normal_numbers():
    assert expected_maximum(1) == pytest.approx(0, abs=1e-3)
    assert expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-3)
    assert expected_maximum(8) == pytest.approx(1.4236, abs=1e-3)  # tables of order statistics
    assert expected_maximum(100) == pytest.approx(2.5076, abs=1e-3)


@pytest.mark.parametrize(
    ("gpus", "seconds"),
    [
        (2, 2 * (1 / 2) / 10),
        (8, 2 * (7 / 8) / 10),
        (16, 2 * (7 / 8) / 10 + 2 * (1 / 2) / 1),
        (32, 2 * (7 / 8) / 10 + 2 * (3 / 4) / 1),
    ],
)
def test_an_exchange_is_rings_inside_and_between_machines(gpus, seconds):
    assert exchange_seconds(gpus, PLAIN) == pytest.approx(seconds)
    assert predict(gpus, epochs=1, assumed=PLAIN).exchange == pytest.approx(seconds)
    assert predict(gpus, epochs=1, assumed=dataclasses.replace(PLAIN, overlap=0.75)).exchange == pytest.approx(
        seconds / 4
    )


def test_one_gpu_does_not_wait():
    run = predict(1, epochs=2, assumed=dataclasses.replace(PLAIN, spread=0.3))
    assert (run.exchange, run.waiting) == (0.0, pytest.approx(0, abs=1e-3))
    assert run.hours == pytest.approx(2 * 118_287 / 10 / 3600, rel=1e-3)
    assert run.efficiency == pytest.approx(1, rel=1e-2)


def test_evaluations_and_the_start_are_added():
    base = predict(8, epochs=1, assumed=PLAIN).hours
    more = dataclasses.replace(PLAIN, evaluations=3, start_hours=0.5, inference_speedup=2.0, scoring_seconds=10.0)
    assert predict(8, epochs=1, assumed=more).hours - base == pytest.approx(0.5 + 3 * (5000 / 160 + 10) / 3600)


def test_fewer_bytes_are_a_shorter_exchange():
    half = dataclasses.replace(PLAIN, gradient_bytes=0.5e9)
    assert exchange_seconds(32, half) == pytest.approx(exchange_seconds(32, PLAIN) / 2)


@pytest.mark.parametrize(("gpus", "epochs"), PUBLISHED)
def test_the_published_hours_are_met_within_three_percent(gpus, epochs):
    hours = predict(gpus, epochs=epochs, assumed=MACHINES["p3.16xlarge"]).hours
    assert hours == pytest.approx(PUBLISHED[gpus, epochs], rel=0.03)


@pytest.mark.parametrize("machine", MACHINES)
def test_more_gpus_are_faster_and_less_efficient(machine):
    runs = [predict(gpus, epochs=24, assumed=MACHINES[machine]) for gpus in GPUS]
    assert [run.hours for run in runs] == sorted((run.hours for run in runs), reverse=True)
    assert [run.efficiency for run in runs] == sorted((run.efficiency for run in runs), reverse=True)


def test_published_hours_stand_beside_their_predictions_only():
    lines = table(epochs=24, assumed=MACHINES["p3.16xlarge"])
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["9.78", "5.60", "3.33", "", "", "", ""]
    assert [line.split("|")[2].strip() for line in lines[2:]][3:5] == ["256", "512 *"]
    for other in (table(epochs=24, assumed=MACHINES["p4d.24xlarge"]), table(epochs=18, assumed=Assumptions())):
        assert {line.split("|")[-2].strip() for line in other[2:]} == {""}


def test_the_table_of_the_readme_is_what_the_command_prints(root, capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    readme = (root / "infra" / "README.md").read_text()
    for line in printed.splitlines():
        if line.startswith(("|", "- ")):
            assert re.sub(r"\s+", " ", line) in re.sub(r"\s+", " ", readme)


def test_options_replace_assumptions(capsys):
    main(["--images-per-second", "1000", "--epochs", "12", "--node-gbits", "400"])
    printed = capsys.readouterr().out
    assert "p3.16xlarge, 12 epochs" in printed
    assert "waits for no other does 1000 images/s" in printed
    assert "5.09" not in printed


@pytest.mark.parametrize("option", ["--images-per-second", "--node-gbits"])
def test_zero_where_it_cannot_be_is_refused_by_name(option, capsys):
    with pytest.raises(SystemExit):
        main([option, "0"])
    assert f"{option}: expected a positive number" in capsys.readouterr().err
