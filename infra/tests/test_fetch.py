"""Downloads continue where they broke off, are checked, and give the documented layout. Served by this machine."""

import functools
import hashlib
import http.server
import io
import json
import threading
import zipfile

import pytest

from infra.data import fetch as module
from infra.data.fetch import SOURCES, FetchError, Source, download, fetch, main


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`, and closes the connection after `server.cut` bytes of a body while `server.cuts` lasts."""

    def do_GET(self):
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.requests.append((self.path, start))
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.cuts > 0:
            self.server.cuts -= 1
            body = body[: self.server.cut]
        self.server.sent += len(body)
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.requests, server.cuts, server.cut, server.sent = {}, [], 0, 1000, 0
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        yield server
        server.shutdown()


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def served(server, name, content, **fields):
    server.files[f"/{name}"] = content
    md5 = hashlib.md5(content).hexdigest()
    return Source(f"{server.url}/{name}", len(content), **{"md5": md5, **fields})


def test_a_broken_download_goes_on_and_nothing_comes_twice(server, tmp_path):
    content = bytes(range(256)) * 20
    source = served(server, "a.zip", content)
    server.cuts = 3
    download(source, tmp_path / "a.zip", wait=0)
    assert (tmp_path / "a.zip").read_bytes() == content
    assert server.requests == [("/a.zip", 0), ("/a.zip", 1000), ("/a.zip", 2000), ("/a.zip", 3000)]
    assert server.sent == len(content)


def test_a_later_start_goes_on_too(server, tmp_path, monkeypatch):
    content = b"0123456789" * 400
    source = served(server, "a.zip", content)
    monkeypatch.setattr(module, "TRIES", 2)
    server.cuts = 2
    with pytest.raises(FetchError, match=r"broken off after 2 tries .*2000 of 4000 bytes.*continues from there"):
        download(source, tmp_path / "a.zip", wait=0)
    download(source, tmp_path / "a.zip", wait=0)
    assert (tmp_path / "a.zip").read_bytes() == content
    assert server.sent == len(content)


def test_a_wrong_checksum_is_named_and_the_file_deleted(server, tmp_path):
    source = served(server, "a.zip", b"changed", md5=hashlib.md5(b"content").hexdigest())
    with pytest.raises(FetchError, match=r"a\.zip: has MD5 .*, published is "):
        download(source, tmp_path / "a.zip", wait=0)
    assert list(tmp_path.iterdir()) == []


def test_another_size_is_seen_before_the_download(server, tmp_path):
    source = served(server, "a.zip", b"x" * 10)._replace(size=11)
    with pytest.raises(FetchError, match="has 10 bytes, published are 11"):
        download(source, tmp_path / "a.zip", wait=0)


def test_a_part_that_is_too_long_is_fetched_again(server, tmp_path):
    source = served(server, "a.npz", b"x" * 10)._replace(size=0)
    (tmp_path / "a.npz.part").write_bytes(b"y" * 12)
    download(source, tmp_path / "a.npz", wait=0)
    assert (tmp_path / "a.npz").read_bytes() == b"x" * 10


def test_a_missing_file_is_not_tried_again(server, tmp_path):
    with pytest.raises(FetchError, match="404"):
        download(Source(f"{server.url}/none.zip", 5), tmp_path / "none.zip", wait=0)


@pytest.fixture
def sources(server):
    annotations = {"annotations/instances_val2017.json": json.dumps({"images": []}), "annotations/captions.json": "{}"}
    return [
        served(server, "annotations.zip", zipped(annotations), members=("annotations/instances_",), unpacked=100),
        served(server, "val2017.zip", zipped({"val2017/1.jpg": "one", "val2017/2.jpg": "two"}), members=("val2017/",)),
        served(server, "b.npz", zipped({"w.npy": "weights"}), md5=None, place="pretrained-models/b.npz")._replace(
            size=0
        ),
    ]


def layout(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


LAYOUT = ["annotations/instances_val2017.json", "pretrained-models/b.npz", "val2017/1.jpg", "val2017/2.jpg"]


def test_everything_ends_in_the_layout_and_a_second_call_asks_for_nothing(server, sources, tmp_path):
    fetch(tmp_path, sources, wait=0)
    marks = ["downloads/annotations.zip.done", "downloads/val2017.zip.done"]
    assert layout(tmp_path) == sorted([*LAYOUT, *marks])
    asked = len(server.requests)
    fetch(tmp_path, sources, wait=0)
    assert len(server.requests) == asked


def test_unpacking_that_was_stopped_goes_on_and_mends_what_is_cut(server, sources, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "val2017.zip").write_bytes(server.files["/val2017.zip"])
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "1.jpg").write_text("one")
    before = (tmp_path / "val2017" / "1.jpg").stat().st_mtime_ns
    (tmp_path / "val2017" / "2.jpg").write_text("twx")
    fetch(tmp_path, sources[1:2], wait=0)
    assert server.requests == []
    assert (tmp_path / "val2017" / "1.jpg").stat().st_mtime_ns == before
    assert (tmp_path / "val2017" / "2.jpg").read_text() == "two"


def test_a_broken_backbone_is_deleted(server, tmp_path):
    content = bytearray(zipped({"w.npy": b"weights" * 50}))
    content[60] ^= 1
    source = served(server, "b.npz", bytes(content), md5=None, place="pretrained-models/b.npz")
    with pytest.raises(FetchError, match=r"b\.npz: broken"):
        fetch(tmp_path, [source], wait=0)
    assert layout(tmp_path) == []


def test_a_name_that_leads_out_of_the_folder_is_refused(server, tmp_path):
    source = served(server, "a.zip", zipped({"val2017/../../x": "bad"}), members=("val2017/",))
    with pytest.raises(FetchError, match="leads out of the folder"):
        fetch(tmp_path / "in", [source], wait=0)
    assert not (tmp_path / "x").exists()


def test_too_small_a_disk_is_seen_before_the_first_byte(server, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: module.shutil._ntuple_diskusage(10**9, 0, 10**9))
    with pytest.raises(FetchError, match=r"1\.1 GB needed for annotations\.zip, .*1\.0 GB free"):
        fetch(tmp_path, sources, wait=0)
    assert server.requests == []


def test_the_published_sources_make_the_documented_layout():
    names = {source.name: source for source in SOURCES}
    assert names["train2017.zip"].members == ("train2017/",)
    assert names["val2017.zip"].members == ("val2017/",)
    assert names["annotations_trainval2017.zip"].members == ("annotations/instances_",)
    assert names["ImageNet-R50-AlignPadding.npz"].place == "pretrained-models/ImageNet-R50-AlignPadding.npz"
    assert all(source.md5 and len(source.md5) == 32 for source in SOURCES if source.members)


def test_the_command_ends_with_one_line(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "SOURCES", [Source(f"{server.url}/none.zip", 5, members=("val2017/",))])
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
