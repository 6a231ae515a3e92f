"""Files that commands write, and text that they show."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from mrcnn_data import OutputError, check_outputs, replaced, visible, write_output


def test_a_file_of_the_users_is_never_replaced(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"the user's")
    with pytest.raises(OutputError, match=r"photo\.png exists and was not written by this command"):
        check_outputs([tmp_path / "new.png", photo])
    with pytest.raises(OutputError, match=r"photo\.png exists"):
        write_output(photo, b"ours")
    assert photo.read_bytes() == b"the user's"


def test_a_file_written_before_is_replaced(tmp_path: Path) -> None:
    for content in (b"first", b"second", b""):
        write_output(tmp_path / "a.json", content)
        assert (tmp_path / "a.json").read_bytes() == content


def test_a_file_that_was_changed_since_is_kept(tmp_path: Path) -> None:
    write_output(tmp_path / "report.html", b"ours")
    (tmp_path / "report.html").write_bytes(b"ours, and the user's notes")
    with pytest.raises(OutputError, match="changed since"):
        write_output(tmp_path / "report.html", b"ours again")
    assert (tmp_path / "report.html").read_bytes() == b"ours, and the user's notes"


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_what_is_no_file_is_kept(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    write_output(target, b"ours")
    path = tmp_path / "out.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(target if kind == "link" else tmp_path / "nothing")
    with pytest.raises(OutputError, match=r"out\.png exists"):
        write_output(path, b"new")
    assert target.read_bytes() == b"ours"
    assert not (tmp_path / "nothing").exists()


def test_a_copy_under_another_name_is_not_ours(tmp_path: Path) -> None:
    write_output(tmp_path / "a.png", b"ours")
    (tmp_path / "b.png").write_bytes(b"ours")
    with pytest.raises(OutputError, match=r"b\.png"):
        write_output(tmp_path / "b.png", b"new")


def test_nothing_is_left_beside_the_files(tmp_path: Path) -> None:
    write_output(tmp_path / "a.png", b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mrcnn-outputs.sha256", "a.png"]
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for content in (b"first", b"second"):
        write_output(tmp_path / "a.json", content)
        assert (tmp_path / "a.json").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mrcnn-outputs.sha256", "a.json"]


def test_a_name_that_another_process_took_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def late(source: str, path: Path) -> None:
        path.write_bytes(b"theirs")
        link(source, path)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(OutputError, match=r"a\.json cannot be written: File exists"):
        write_output(tmp_path / "a.json", b"ours")
    assert (tmp_path / "a.json").read_bytes() == b"theirs"


def test_sha256sum_reads_the_ledger(tmp_path: Path) -> None:
    write_output(tmp_path / "a.png", b"1")
    subprocess.run(["sha256sum", "--check", ".mrcnn-outputs.sha256"], cwd=tmp_path, check=True)


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.png cannot be written: No such file or directory"):
        write_output(tmp_path / "missing" / "a.png", b"1")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("häuser 犬", "häuser 犬"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\r\nb\t", "a\\r\\nb\\t"),
        ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        ("\u2028", "\\u2028"),
        ("", ""),
        (7, "7"),
    ],
)
def test_visible(text: object, shown: str) -> None:
    assert visible(text) == shown


def test_visible_cuts_the_middle_of_long_text() -> None:
    shown = visible("a" * 10**6 + "b" * 10**6, limit=25)
    assert shown == "aaaaaaaaaa ... bbbbbbbbbb"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("name", ["犬" * 80 + ".png", "a" * 255])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    for content in (b"first", b"second"):
        write_output(tmp_path / name, content)
        assert (tmp_path / name).read_bytes() == content


def test_sha256sum_reads_the_list_of_files(tmp_path: Path) -> None:
    for name in ("plain", "back\\slash", "two\nlines"):
        write_output(tmp_path / name, name.encode())
    outcome = subprocess.run(
        ["sha256sum", "-c", ".mrcnn-outputs.sha256"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert (outcome.returncode, outcome.stdout.count(": OK")) == (0, 3), outcome.stdout + outcome.stderr


def test_no_writer_follows_a_link_of_the_name_that_it_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("the user's")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".mrcnn-outputs.sha256").symlink_to(victim)
    with pytest.raises(OutputError, match="cannot be written"):
        write_output(folder / "a.txt", b"ours")
    assert victim.read_text() == "the user's"
    monkeypatch.setattr("secrets.token_hex", lambda count: "00" * count)
    (folder / ".mrcnn-0000000000000000.partial").symlink_to(victim)
    with pytest.raises(FileExistsError), replaced(folder / "b.txt"):
        raise AssertionError("not reached")
    assert victim.read_text() == "the user's"


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replaced(path) as one, replaced(path, flush=True) as other:
        one.write(b"one " * 1000)
        other.write(b"other " * 1000)
    assert path.read_bytes() == b"one " * 1000  # the last that ended
    with contextlib.suppress(ZeroDivisionError), replaced(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"one " * 1000
    assert os.listdir(tmp_path) == ["a.txt"]
