"""Staging against a local S3 (moto's server), through a proxy that counts what is sent and breaks connections."""

import contextlib
import random
import socket
import threading

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from infra.data import stage
from infra.data.stage import INDEX, Place, StageError, download, main, parse_place, upload

PLACE = Place("our-bucket", "sets/coco")
PART = 5 << 20  # the least that S3 takes


class Proxy:
    """Passes connections on to a port, counting bytes each way; closes all when one direction has had `limit` bytes."""

    def __init__(self, port):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.port = port
        self.lock = threading.Lock()
        self.reset()
        threading.Thread(target=self.accept, daemon=True).start()

    def reset(self, *, up=None, down=None):
        self.limits = {"up": up, "down": down}
        self.counts = {"up": 0, "down": 0}

    def accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            other = socket.create_connection(("127.0.0.1", self.port))
            for direction, source, target in (("up", client, other), ("down", other, client)):
                threading.Thread(target=self.pump, args=(direction, source, target), daemon=True).start()

    def pump(self, direction, source, target):
        try:
            while data := source.recv(65536):
                with self.lock:
                    limit = self.limits[direction]
                    if limit is not None:
                        data = data[: max(limit - self.counts[direction], 0)]
                    self.counts[direction] += len(data)
                if not data:
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def moto_port():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def proxy(moto_port):
    proxy = Proxy(moto_port)
    yield proxy
    proxy.server.close()


@pytest.fixture
def client(proxy, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    client = boto3.client("s3", endpoint_url=proxy.url, config=Config(retries={"total_max_attempts": 1}))
    client.create_bucket(Bucket=PLACE.bucket)
    yield client
    for upload_ in client.list_multipart_uploads(Bucket=PLACE.bucket).get("Uploads", ()):
        client.abort_multipart_upload(Bucket=PLACE.bucket, Key=upload_["Key"], UploadId=upload_["UploadId"])
    for entry in client.list_objects_v2(Bucket=PLACE.bucket).get("Contents", ()):
        client.delete_object(Bucket=PLACE.bucket, Key=entry["Key"])
    client.delete_bucket(Bucket=PLACE.bucket)


@pytest.fixture
def folder(tmp_path):
    """Small files, and one of four parts, the last one short."""
    folder = tmp_path / "data"
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_bytes(b"{}" * 500)
    for number in range(3):
        (folder / "val2017" / f"{number}.jpg").write_bytes(bytes([number]) * 1000)
    (folder / "empty.txt").touch()
    block = random.Random(0).randbytes(PART)
    (folder / "big.bin").write_bytes(b"".join(bytes([i]) + block[1:] for i in range(3)) + b"the end")
    return folder


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def requests(client, operation):
    """A list that grows with each request of an operation."""
    seen = []
    client.meta.events.register(f"before-call.s3.{operation}", lambda params, **_: seen.append(params))
    return seen


def test_a_folder_goes_up_and_comes_down_as_it_was(client, folder, tmp_path):
    assert upload(folder, PLACE, client=client, part_size=PART) == 6
    copy = tmp_path / "copy"
    assert download(PLACE, copy, client=client) == 6
    assert files(copy) == files(folder)


def test_nothing_is_sent_or_brought_again(client, folder, tmp_path, proxy):
    upload(folder, PLACE, client=client, part_size=PART)
    copy = tmp_path / "copy"
    download(PLACE, copy, client=client)
    proxy.reset()
    assert upload(folder, PLACE, client=client, part_size=PART) == 0
    assert proxy.counts["up"] < 10_000
    proxy.reset()
    assert download(PLACE, copy, client=client) == 0
    assert proxy.counts["down"] < 10_000


def test_only_what_changed_is_sent(client, folder, tmp_path):
    upload(folder, PLACE, client=client, part_size=PART)
    (folder / "val2017" / "1.jpg").write_bytes(b"n" * 1000)  # the same size
    (folder / "val2017" / "new.jpg").write_bytes(b"new")
    assert upload(folder, PLACE, client=client, part_size=PART) == 2
    download(PLACE, tmp_path / "copy", client=client)
    assert files(tmp_path / "copy") == files(folder)


def test_a_broken_upload_goes_on_with_the_parts_that_are_missing(client, folder, proxy, tmp_path):
    proxy.reset(up=2 * PART + PART // 2)
    with pytest.raises(Exception, match=r"(?i)connection|closed|endpoint"):
        upload(folder, PLACE, client=client, part_size=PART, threads=1)
    proxy.reset()
    sent = requests(client, "UploadPart")
    upload(folder, PLACE, client=client, part_size=PART, threads=1)
    assert [request["url_path"].endswith("big.bin") for request in sent] == [True, True]
    assert proxy.counts["up"] < PART + 30_000, "parts were sent twice"
    assert client.list_multipart_uploads(Bucket=PLACE.bucket).get("Uploads", []) == []
    download(PLACE, tmp_path / "copy", client=client)
    assert files(tmp_path / "copy") == files(folder)


def test_a_broken_upload_of_a_file_that_changed_sends_what_changed(client, folder, proxy, tmp_path):
    proxy.reset(up=2 * PART + PART // 2)
    with pytest.raises(Exception, match=r"(?i)connection|closed|endpoint"):
        upload(folder, PLACE, client=client, part_size=PART, threads=1)
    proxy.reset()
    content = bytearray((folder / "big.bin").read_bytes())
    content[0] ^= 255
    (folder / "big.bin").write_bytes(content)
    upload(folder, PLACE, client=client, part_size=PART, threads=1)
    download(PLACE, tmp_path / "copy", client=client)
    assert files(tmp_path / "copy") == files(folder)


def test_files_sent_before_the_break_are_not_sent_again(client, folder, proxy, monkeypatch):
    put = stage._put
    monkeypatch.setattr(stage, "_put", lambda *a: put(*a) if "2.jpg" not in a[2] else (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):  # noqa: PT011 - nothing to match
        upload(folder, PLACE, client=client, part_size=PART, threads=1)
    monkeypatch.undo()
    proxy.reset()
    assert upload(folder, PLACE, client=client, part_size=PART, threads=1) == 1
    assert proxy.counts["up"] < 30_000


def test_a_broken_download_goes_on_behind_the_last_byte(client, folder, proxy, tmp_path, monkeypatch):
    upload(folder, PLACE, client=client, part_size=PART)
    monkeypatch.setattr(stage, "TRIES", 1)
    proxy.reset(down=2 * PART)
    copy = tmp_path / "copy"
    with pytest.raises(StageError, match=r"big\.bin: .*continues from there"):
        download(PLACE, copy, client=client, threads=1)
    have = (copy / "big.bin.part").stat().st_size
    assert have > PART
    proxy.reset()
    download(PLACE, copy, client=client, threads=1)
    assert proxy.counts["down"] < 3 * PART - have + 30_000, "bytes were brought twice"
    assert files(copy) == files(folder)


def test_a_wrong_checksum_is_found_and_the_file_not_kept(client, folder, tmp_path):
    upload(folder, PLACE, client=client, part_size=PART)
    client.put_object(Bucket=PLACE.bucket, Key=PLACE.key("val2017/1.jpg"), Body=b"x" * 1000)
    copy = tmp_path / "copy"
    with pytest.raises(StageError, match=r"^sets/coco/val2017/1\.jpg: wrong checksum"):
        download(PLACE, copy, client=client, threads=1)
    assert not (copy / "val2017" / "1.jpg").exists()
    assert not (copy / "val2017" / "1.jpg.part").exists()


def test_a_file_that_was_changed_here_is_brought_again(client, folder, tmp_path):
    upload(folder, PLACE, client=client, part_size=PART)
    copy = tmp_path / "copy"
    download(PLACE, copy, client=client)
    (copy / "val2017" / "1.jpg").write_bytes(b"x" * 1000)
    assert download(PLACE, copy, client=client) == 1
    assert files(copy) == files(folder)


def test_a_part_of_an_older_file_is_replaced(client, folder, tmp_path):
    upload(folder, PLACE, client=client, part_size=PART)
    copy = tmp_path / "copy"
    (copy / "val2017").mkdir(parents=True)
    (copy / "val2017" / "1.jpg.part").write_bytes(b"old")
    download(PLACE, copy, client=client)
    assert files(copy) == files(folder)


def test_what_was_sent_in_part_is_not_used(client, folder, tmp_path):
    client.put_object(Bucket=PLACE.bucket, Key=PLACE.key("val2017/1.jpg"), Body=b"x")
    with pytest.raises(StageError, match="send the whole data set there with `up` first"):
        download(PLACE, tmp_path / "copy", client=client)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_an_index_cannot_lead_out_of_the_folder(client, tmp_path, name):
    client.put_object(Bucket=PLACE.bucket, Key=PLACE.key(INDEX), Body=f"{'0' * 64}  1  {name}\n".encode())
    with pytest.raises(StageError, match="is not a line of an index"):
        download(PLACE, tmp_path / "copy", client=client)


def test_too_small_a_disk_is_seen_first(client, folder, tmp_path, monkeypatch):
    upload(folder, PLACE, client=client, part_size=PART)
    usage = stage.shutil._ntuple_diskusage(1, 0, 1)
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StageError, match=r"1\.1 GB needed, 0\.0 GB free"):
        download(PLACE, tmp_path / "copy", client=client)
    assert files(tmp_path / "copy") == {}


def test_what_the_download_of_coco_keeps_is_not_sent(client, folder):
    (folder / "downloads").mkdir()
    (folder / "downloads" / "val2017.zip.done").write_text("5000 files\n")
    (folder / ".mrcnn-cache").write_text("x")
    assert upload(folder, PLACE, client=client, part_size=PART) == 6


@pytest.mark.parametrize("text", ["bucket/x", "s3:/x", "s3://", "s3://Bucket/x", "https://x"])
def test_a_place_that_is_written_otherwise_is_refused(text):
    with pytest.raises(StageError, match=r"expected s3://BUCKET/PREFIX"):
        parse_place(text)


def test_places():
    assert parse_place("s3://our-bucket/sets/coco/") == PLACE
    assert parse_place("s3://our-bucket") == Place("our-bucket", "")


def test_the_command_copies_and_names_what_is_wrong(client, folder, proxy, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    assert main(["up", str(folder), "s3://our-bucket/sets/coco"]) == 0
    assert main(["down", "s3://our-bucket/sets/coco", str(tmp_path / "copy")]) == 0
    assert files(tmp_path / "copy") == files(folder)
    capsys.readouterr()
    assert main(["up", str(tmp_path / "none"), "s3://our-bucket/sets/coco"]) == 2
    assert main(["down", "s3://another-bucket/x", str(tmp_path / "copy")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "none: the folder does not exist" in errors[0]
    assert "NoSuchBucket" in errors[1]
