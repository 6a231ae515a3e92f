"""Copy the folder of a data set to S3 or from it. Nothing is sent twice, and every file is checked by SHA-256.

    python -m infra.data.stage up FOLDER s3://BUCKET/PREFIX
    python -m infra.data.stage down s3://BUCKET/PREFIX FOLDER

The last file that `up` sends is an index, `PREFIX/.mrcnn-files.sha256` ("SHA-256  SIZE  NAME" lines). Without it `down`
refuses, so an incomplete data set is not used by mistake. Both may be stopped and started again. Large files are sent
in parts; a later `up` asks S3 which parts it has, and a later `down` continues after the last byte.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any, NamedTuple

INDEX = ".mrcnn-files.sha256"
PART = 32 << 20  # bytes of a part; S3 takes 10,000 parts, so files up to 320 GB
CHUNK = 1 << 20
THREADS = 16
RESERVE = 1 << 30  # bytes of the disk to leave free
TRIES = 3  # of a download; each continues after the last byte
SKIPPED = ("downloads/",)  # where infra.data.fetch keeps its archives


class StageError(Exception):
    """A file that cannot be copied or is wrong, or a wrong option. The message names it."""


class Place(NamedTuple):
    """A folder of a bucket."""

    bucket: str
    prefix: str

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


class File(NamedTuple):
    """The entry of a file in the index."""

    sha256: str
    size: int


def parse_place(text: str) -> Place:
    """Read `s3://BUCKET/PREFIX`.

    Raises:
        StageError: the text has another form.
    """
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]+)(?:/(.*?))?/?", text)
    if not match:
        raise StageError(f"{text}: expected s3://BUCKET/PREFIX")
    return Place(match[1], match[2] or "")


def upload(folder: Path, place: Place, *, client: Any, part_size: int = PART, threads: int = THREADS) -> int:
    """Send the files that the bucket does not have, then the index.

    Returns:
        How many files were sent.

    Raises:
        StageError: there is nothing to send, or S3 refuses.
    """
    names = [name for name in _names(folder) if not name.startswith((".", *SKIPPED))]
    if not names:
        raise StageError(f"{folder}: no files in this folder")
    sizes = dict(_list(client, place))
    known = read_index(client, place) or {}

    def send(name: str) -> tuple[str, File, bool]:
        path = folder / name
        file = File(_sha256(path), path.stat().st_size)
        is_there = sizes.get(name) == file.size and (
            known[name] == file if name in known else _stored_sha256(client, place, name) == file.sha256
        )
        if not is_there:
            _put(client, place, name, path, file, part_size)
        return name, file, not is_there

    results = sorted(_in_threads(send, names, threads, "sent or there"))
    index = "".join(f"{file.sha256}  {file.size}  {name}\n" for name, file, _ in results).encode()
    _put_whole(client, place, INDEX, index, hashlib.sha256(index).hexdigest())
    return sum(was_sent for _, _, was_sent in results)


def download(place: Place, folder: Path, *, client: Any, threads: int = THREADS) -> int:
    """Download the files that the folder does not have.

    Returns:
        How many files were downloaded.

    Raises:
        StageError: there is no index, the disk is too small, or a file has another checksum than in the index; such a
            file is not kept.
    """
    index = read_index(client, place)
    if index is None:
        raise StageError(f"{place} has no {INDEX}: send the whole data set there with `up` first")
    folder.mkdir(parents=True, exist_ok=True)
    lacking = sum(file.size for name, file in index.items() if not (folder / name).exists())
    free = shutil.disk_usage(folder).free
    if lacking and lacking + RESERVE > free:
        raise StageError(f"{folder}: {(lacking + RESERVE) / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")

    def bring(name: str) -> bool:
        path, file = folder / name, index[name]
        if path.exists() and path.stat().st_size == file.size and _sha256(path) == file.sha256:
            return False
        _get(client, place, name, path, file)
        return True

    return sum(_in_threads(bring, list(index), threads, "here"))


def read_index(client: Any, place: Place) -> dict[str, File] | None:
    """Return the entries of the index in the bucket, by name; None if there is no index.

    Raises:
        StageError: a line has another form, or a name leads out of the folder.
    """
    try:
        text = client.get_object(Bucket=place.bucket, Key=place.key(INDEX))["Body"].read().decode()
    except client.exceptions.NoSuchKey:
        return None
    files = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})  (\d+)  (.+)", line)
        if not match or match[3].startswith("/") or ".." in match[3].split("/"):
            raise StageError(f"{place.key(INDEX)}: {line[:200]!r} is not a line of an index")
        files[match[3]] = File(match[1], int(match[2]))
    return files


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise StageError(f"{folder}: the folder does not exist")
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _list(client: Any, place: Place) -> Iterator[tuple[str, int]]:
    """Yield name and size of the objects below a place."""
    start = f"{place.prefix}/" if place.prefix else ""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=start):
        for entry in page.get("Contents", ()):
            yield entry["Key"][len(start) :], entry["Size"]


def _stored_sha256(client: Any, place: Place, name: str) -> str | None:
    """Return the checksum that `_put` stored with an object, if any."""
    head = client.head_object(Bucket=place.bucket, Key=place.key(name))
    checksum: str | None = head["Metadata"].get("sha256")
    return checksum


def _put(client: Any, place: Place, name: str, path: Path, file: File, part_size: int) -> None:
    if file.size <= part_size:
        _put_whole(client, place, name, path.read_bytes(), file.sha256)
        return
    target = {"Bucket": place.bucket, "Key": place.key(name)}
    upload_id, there = _broken_upload(client, place, name, file)
    parts = []
    with path.open("rb") as content:
        for number, block in enumerate(iter(lambda: content.read(part_size), b""), start=1):
            digest = hashlib.md5(block, usedforsecurity=False)
            # A part's tag is its MD5; where it differs (the file changed, or keys of KMS), the part is sent again.
            tag = f'"{digest.hexdigest()}"'
            if there.get(number) != tag:
                tag = client.upload_part(
                    **target, UploadId=upload_id, PartNumber=number, Body=block, ContentMD5=_base64(digest.digest())
                )["ETag"]
            parts.append({"PartNumber": number, "ETag": tag})
    client.complete_multipart_upload(**target, UploadId=upload_id, MultipartUpload={"Parts": parts})


def _broken_upload(client: Any, place: Place, name: str, file: File) -> tuple[str, dict[int, str]]:
    """Return the id of an unfinished upload of the file, or of a new one, and the tags of its parts by number."""
    key = place.key(name)
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=place.bucket, Prefix=key):
        for entry in page.get("Uploads", ()):
            if entry["Key"] != key:
                continue
            upload_id = str(entry["UploadId"])
            pages = client.get_paginator("list_parts").paginate(Bucket=place.bucket, Key=key, UploadId=upload_id)
            parts = {part["PartNumber"]: part["ETag"] for page in pages for part in page.get("Parts", ())}
            return upload_id, parts
    created = client.create_multipart_upload(Bucket=place.bucket, Key=key, Metadata={"sha256": file.sha256})
    return str(created["UploadId"]), {}


def _put_whole(client: Any, place: Place, name: str, content: bytes, sha256: str) -> None:
    checksum = _base64(hashlib.md5(content, usedforsecurity=False).digest())
    client.put_object(
        Bucket=place.bucket, Key=place.key(name), Body=content, ContentMD5=checksum, Metadata={"sha256": sha256}
    )


def _get(client: Any, place: Place, name: str, path: Path, file: File) -> None:
    """Download a file under a temporary name, check it, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    for left in reversed(range(TRIES)):
        try:
            resumed = _get_rest(client, place, name, part, file)
        except _broken_connections() as error:
            if not left:
                raise StageError(f"{place.key(name)}: {error}: start again, it continues from there") from error
            continue
        if _sha256(part) == file.sha256:
            part.replace(path)
            return
        part.unlink()
        if not resumed:  # the beginning may be from an older file; a file downloaded in one go must be right
            break
    raise StageError(f"{place.key(name)}: wrong checksum, it is not the file that was sent: send it again with `up`")


def _get_rest(client: Any, place: Place, name: str, part: Path, file: File) -> bool:
    """Append the missing bytes to `part`; return whether it had some already."""
    have = part.stat().st_size if part.exists() else 0
    if have >= file.size > 0:
        return True
    span = {"Range": f"bytes={have}-"} if have else {}
    body = client.get_object(Bucket=place.bucket, Key=place.key(name), **span)["Body"]
    with part.open("ab") as target:
        for block in body.iter_chunks(CHUNK):
            target.write(block)
    return have > 0


def _broken_connections() -> tuple[type[Exception], ...]:
    from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

    return HTTPClientError, IncompleteReadError, ResponseStreamingError


def _in_threads(work: Callable[[str], Any], names: Sequence[str], threads: int, verb: str) -> list[Any]:
    """Do the work for each name in threads. The first failure is raised when the running work has ended."""
    results: list[Any] = []
    queue = iter(names)
    running: set[Future[Any]] = set()
    with ThreadPoolExecutor(threads) as pool:
        while running or len(results) < len(names):
            for name in itertools.islice(queue, 2 * threads - len(running)):
                running.add(pool.submit(work, name))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            results += [future.result() for future in done]
            if len(results) // 5000 > (len(results) - len(done)) // 5000:
                print(f"{len(results)} of {len(names)} files {verb}", flush=True)
    return results


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(CHUNK):
        yield block


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy a data set; a failure prints one line on stderr and exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m infra.data.stage", description="Copy a data set to S3 or from it.")
    parser.add_argument("direction", choices=("up", "down"))
    parser.add_argument("source", metavar="FROM", help="up: a folder; down: s3://BUCKET/PREFIX")
    parser.add_argument("target", metavar="TO", help="up: s3://BUCKET/PREFIX; down: a folder")
    options = parser.parse_args(arguments)
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        print("infra.data.stage: boto3 is not installed: pip install boto3", file=sys.stderr)
        return 2
    try:
        client = boto3.client("s3")
        if options.direction == "up":
            count = upload(Path(options.source), parse_place(options.target), client=client)
        else:
            count = download(parse_place(options.source), Path(options.target), client=client)
    except (StageError, BotoCoreError, ClientError, OSError) as error:
        print(f"infra.data.stage: {error}", file=sys.stderr)
        return 2
    print(f"{options.target}: complete, {count} files {'sent' if options.direction == 'up' else 'brought'} now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
