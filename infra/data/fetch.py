"""Download COCO 2017 and the ImageNet backbone, check them, and put them where mrcnn_train looks for them.

    python -m infra.data.fetch FOLDER

    FOLDER/annotations/instances_{train,val}2017.json, FOLDER/{train,val}2017/*.jpg
    FOLDER/pretrained-models/ImageNet-R50-AlignPadding.npz

It may be stopped and started again at any time: a download continues where it stopped, and complete files are not
fetched again. An archive is deleted when all its files are unpacked.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

CHUNK = 1 << 20
TRIES = 8  # of a download; each continues where the last one broke off
RESERVE = 1 << 30  # bytes of the disk to leave free


class FetchError(Exception):
    """A download that failed or a file that is wrong. The message names it and says what to do."""


class Source(NamedTuple):
    """A file to download: a zip whose `members` (prefixes of names) are unpacked, or a file that is kept at `place`.

    `unpacked` is the size of the members in bytes, for the check of free space.
    """

    url: str
    size: int  # bytes; 0: not known
    md5: str | None = None
    members: tuple[str, ...] = ()
    unpacked: int = 0
    place: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name


# All public addresses, sizes and checksums. There is no published checksum of the backbone, but an npz file is a zip,
# which contains checksums.
COCO = "http://images.cocodataset.org"
SOURCES = (
    Source(
        f"{COCO}/annotations/annotations_trainval2017.zip",
        252_907_541,
        "f4bbac642086de4f52a3fdda2de5fa2c",
        ("annotations/instances_",),
        490_000_000,
    ),
    Source(f"{COCO}/zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80", ("val2017/",), 820_000_000),
    Source(
        f"{COCO}/zips/train2017.zip",
        19_336_861_798,
        "cced6f7f71b7629ddf16f17bbcfab6b2",
        ("train2017/",),
        19_400_000_000,
    ),
    Source(
        "http://models.tensorpack.com/FasterRCNN/ImageNet-R50-AlignPadding.npz",
        0,
        place="pretrained-models/ImageNet-R50-AlignPadding.npz",
    ),
)


def fetch(folder: Path, sources: Sequence[Source], *, wait: float = 5.0) -> None:
    """Download every source into the folder.

    Args:
        wait: seconds between two tries of a download.

    Raises:
        FetchError: the disk is too small, the connection fails, or a file is not the published one.
    """
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    missing = [source for source in sources if not _is_done(folder, source)]
    _check_space(folder, missing)
    for source in missing:
        archive = downloads / source.name
        if not archive.exists():
            download(source, archive, wait=wait)
        if source.members:
            count = unpack(archive, folder, source.members)
            _done_mark(folder, source).write_text(f"{count} files\n")
            archive.unlink()
            print(f"{source.name}: {count} files unpacked")
        else:
            check_zip(archive)
            (folder / source.place).parent.mkdir(parents=True, exist_ok=True)
            archive.replace(folder / source.place)
            print(f"{source.name}: at {folder / source.place}")


def _done_mark(folder: Path, source: Source) -> Path:
    return folder / "downloads" / f"{source.name}.done"


def _is_done(folder: Path, source: Source) -> bool:
    return (_done_mark(folder, source) if source.members else folder / source.place).exists()


def _check_space(folder: Path, missing: Sequence[Source]) -> None:
    """Raise FetchError if the disk is too small. An archive and its files need space at the same time."""
    kept = needed = 0
    for source in missing:
        part = folder / "downloads" / f"{source.name}.part"
        here = folder / "downloads" / source.name
        have = sum(path.stat().st_size for path in (part, here) if path.exists())
        needed = max(needed, kept + source.size + source.unpacked - have)
        kept += source.unpacked - have
    free = shutil.disk_usage(folder).free
    if missing and needed + RESERVE > free:
        raise FetchError(
            f"{folder}: {(needed + RESERVE) / 1e9:.1f} GB needed for {', '.join(source.name for source in missing)}, "
            f"{free / 1e9:.1f} GB free: choose another folder"
        )


def download(source: Source, target: Path, *, wait: float = 5.0) -> None:
    """Download a file, continuing an earlier try, and check it.

    Raises:
        FetchError: the connection keeps breaking, the server has another file, or the checksum is wrong; in the last
            case the download is deleted.
    """
    part = target.with_name(f"{target.name}.part")
    for left in reversed(range(TRIES)):
        try:
            _download_rest(source, part)
            break
        except (OSError, EOFError) as error:
            code = getattr(error, "code", 500)
            if code == 416:  # the part is longer than the file
                part.unlink()
            elif code < 500:
                raise FetchError(f"{source.url}: {error}") from error
            if not left:
                raise FetchError(
                    f"{source.url}: broken off after {TRIES} tries ({error}); start again, it continues from there"
                ) from error
            time.sleep(wait)
    found = _md5(part) if source.md5 else None
    if found != source.md5:
        part.unlink()
        raise FetchError(
            f"{source.url}: has MD5 {found}, published is {source.md5}: deleted. Start again; if this repeats, "
            "something between this machine and the server changes the file"
        )
    part.replace(target)


def _download_rest(source: Source, part: Path) -> None:
    """Append the missing bytes to `part`.

    Raises:
        EOFError: the server closed the connection early.
    """
    have = part.stat().st_size if part.exists() else 0
    if source.size and have >= source.size:
        return
    request = urllib.request.Request(source.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        goes_on = answer.status == 206
        length = int(answer.headers["Content-Length"]) + (have if goes_on else 0)
        if source.size and length != source.size:
            raise FetchError(f"{source.url}: has {length} bytes, published are {source.size}: the file is another one")
        with part.open("ab" if goes_on else "wb") as file:
            for chunk in _chunks(answer):
                file.write(chunk)
        if part.stat().st_size != length:
            raise EOFError(f"{part.stat().st_size} of {length} bytes")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def unpack(archive: Path, folder: Path, members: Sequence[str]) -> int:
    """Unpack the files whose names begin with one of `members`, except those that are complete already.

    Returns:
        How many files of the archive are in the folder now.

    Raises:
        FetchError: the archive is broken, or a name leads out of the folder.
    """
    count = 0
    try:
        with zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                if entry.is_dir() or not entry.filename.startswith(tuple(members)):
                    continue
                target = folder / entry.filename
                if ".." in PurePosixPath(entry.filename).parts:
                    raise FetchError(f"{archive}: {entry.filename} leads out of the folder")
                if not (target.exists() and _same(target, entry)):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    part = target.with_name(f"{target.name}.part")
                    with content.open(entry) as packed, part.open("wb") as file:
                        shutil.copyfileobj(packed, file, CHUNK)
                    part.replace(target)
                count += 1
    except (zipfile.BadZipFile, zlib.error) as error:
        raise FetchError(f"{archive}: {error}: delete it and start again") from error
    return count


def _same(path: Path, entry: zipfile.ZipInfo) -> bool:
    if path.stat().st_size != entry.file_size:
        return False
    code = 0
    with path.open("rb") as file:
        for chunk in _chunks(file):
            code = zlib.crc32(chunk, code)
    return code == entry.CRC


def check_zip(path: Path) -> None:
    """Raise FetchError and delete the file if a zip (or npz) is broken."""
    try:
        with zipfile.ZipFile(path) as content:
            broken = content.testzip()
    except (zipfile.BadZipFile, zlib.error) as error:
        broken = str(error)
    if broken:
        path.unlink()
        raise FetchError(f"{path.name}: broken ({broken}): deleted, start again")


def main(arguments: Sequence[str] | None = None) -> int:
    """Download everything; a failure prints one line on stderr and exits with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.data.fetch",
        description="Download COCO 2017 and the ImageNet backbone (41 GB while unpacking, 21 GB in the end).",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the data set's folder, data.root of mrcnn_train")
    folder = parser.parse_args(arguments).folder
    try:
        fetch(folder, SOURCES)
    except (FetchError, OSError) as error:
        print(f"infra.data.fetch: {error}", file=sys.stderr)
        return 2
    print(f"{folder}: complete; next: mrcnn-data check {folder} train2017 val2017")
    return 0


if __name__ == "__main__":
    sys.exit(main())
