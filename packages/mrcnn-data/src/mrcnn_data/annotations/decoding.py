"""Decode the text of a COCO file into entries: in pieces while it is read, or as a whole, or one by one.

A file whose entries have COCO's types is decoded into typed structs, a few hundred annotations at a time, while the
rest of the file is still being read. If any entry has another type, a slower reader takes all entries one by one,
repairs what it can and reports the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from mrcnn_data.annotations.categories import ONE_CLASS_ADVICE
from mrcnn_data.annotations.entries import (
    AnnotationEntry,
    CategoryEntry,
    Fields,
    ImageEntry,
    fields_of,
    joined_fields,
)
from mrcnn_data.annotations.repairs import repaired_annotation, repaired_category, repaired_image
from mrcnn_data.annotations.text import AnnotationText
from mrcnn_data.errors import DatasetError
from mrcnn_data.json_file import lenient_decode, other_layout, strict_json, why_not_json
from mrcnn_data.report import STOPS_TRAINING, Report

Entry = TypeVar("Entry", ImageEntry, AnnotationEntry, CategoryEntry)


class _File(msgspec.Struct):
    images: list[ImageEntry]
    annotations: list[AnnotationEntry]
    categories: list[CategoryEntry]


class _FileAround(msgspec.Struct):
    """A file whose annotations are left undecoded."""

    images: list[ImageEntry]
    annotations: msgspec.Raw
    categories: list[CategoryEntry]


class _RawFile(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


class Entries(NamedTuple):
    """The readable entries of a file, and the place of each in its list."""

    images: list[ImageEntry]
    annotations: Fields
    categories: list[CategoryEntry]
    image_places: Sequence[int]
    annotation_places: Sequence[int]
    category_places: Sequence[int]


def decode(path: Path, data: bytes | AnnotationText, report: Report) -> Entries:
    """Decode a file; entries that cannot be read are in the report.

    Raises:
        DatasetError: it is not JSON, or not COCO.
    """
    if isinstance(data, bytes):
        return _decode_whole(path, data, report)
    try:
        return _decode_in_pieces(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _NoPiecesError):
        pass  # decoding the whole text shows what is wrong, if anything
    return _decode_whole(path, data.whole(), report)


def _decode_whole(path: Path, data: bytes | memoryview, report: Report) -> Entries:
    try:
        try:
            return _decode_entries(path, data, report)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if isinstance(error, msgspec.ValidationError):
                raise
            return _decode_entries(path, strict_json(data), report)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DatasetError(f"{path} is not a COCO instances file: {_other_layout(data) or error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not JSON: {why_not_json(data, error)}") from None


def _other_layout(data: bytes | memoryview) -> str | None:
    try:
        return other_layout(lenient_decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class _NoPiecesError(Exception):
    """The file has another layout than COCO's and has to be decoded as a whole."""


_PIECE = 1 << 19  # bytes; smaller and larger ones took longer
_OPENING = re.compile(rb'"annotations"\s*:\s*(?=\[)')
_NEXT = re.compile(rb"\}\s*(?=,\s*\{)")
_CLOSING = re.compile(rb'\}\s*(?=\]\s*(?:,\s*"(?:images|categories|info|licenses|type)"\s*:|\}\s*\Z))')
_PLACE = b'["decoded in pieces"]'


def _decode_in_pieces(text: AnnotationText) -> Entries:
    """Decode the annotations piece by piece, cut at commas between them.

    The structs of a piece stay in the processor's cache and are freed before the next piece: train2017 takes 1.0 GB,
    instead of 1.3 GB with all structs at once.

    Where to cut is a guess, but a wrong guess is always noticed. If `[A]` and `[B]` are JSON lists, so is `[A, B]`. And
    this list is the file's "annotations" if the file, with `_PLACE` put in its place, has `_PLACE` as its annotations.

    Raises:
        _NoPiecesError, or msgspec's errors: the file has another layout, or a guess was wrong.
    """
    opening = text.search(_OPENING, 0)
    if not opening:
        raise _NoPiecesError
    decoder = msgspec.json.Decoder(list[AnnotationEntry])
    pieces: list[Fields] = []

    def decode_to(stop: int) -> None:
        with text.as_list(start, stop) as piece:
            pieces.append(fields_of(decoder.decode(piece)))

    start = opening.end()
    while following := text.search(_NEXT, start + _PIECE):
        try:
            decode_to(following.end())
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # The list ends before this comma (searching each piece for its end would take 0.4 s), or the guess was
            # wrong: the rest of the list becomes one piece.
            break
        start = following.end()
    closing = _CLOSING.search(text.whole(), start)
    if not closing:
        raise _NoPiecesError
    decode_to(closing.end())
    start = closing.end()
    whole = text.whole()
    around = msgspec.json.decode(b"".join((whole[: opening.end()], _PLACE, whole[start + 1 :])), type=_FileAround)
    if bytes(around.annotations) != _PLACE:
        raise _NoPiecesError
    return _all_entries(around.images, joined_fields(pieces), around.categories)


def _all_entries(images: list[ImageEntry], annotations: Fields, categories: list[CategoryEntry]) -> Entries:
    numbers = (range(len(images)), range(len(annotations.segmentations)), range(len(categories)))
    return Entries(images, annotations, categories, *numbers)


def _decode_entries(path: Path, text: bytes | memoryview, report: Report) -> Entries:
    try:
        file = msgspec.json.decode(text, type=_File)
        return _all_entries(file.images, fields_of(file.annotations), file.categories)
    except msgspec.ValidationError:
        lists = msgspec.json.decode(text, type=_RawFile)
    images, image_places = _one_by_one(path, "image", lists.images, ImageEntry, repaired_image, report)
    annotations, annotation_places = _one_by_one(
        path, "annotation", lists.annotations, AnnotationEntry, repaired_annotation, report
    )
    categories, category_places = _one_by_one(
        path, "category", lists.categories, CategoryEntry, repaired_category, report
    )
    return Entries(images, fields_of(annotations), categories, image_places, annotation_places, category_places)


def _one_by_one(
    path: Path, what: str, raws: list[msgspec.Raw], kind: type[Entry], repair: Any, report: Report
) -> tuple[list[Entry], list[int]]:
    decoder = msgspec.json.Decoder(kind)
    entries, places = [], []
    for place, raw in enumerate(raws):
        try:
            entry = decoder.decode(raw)
        except msgspec.ValidationError as error:
            entry = repair(raw, report, place)
            if entry is None:
                _report_unreadable(path, what, place, error, report)
                continue
        entries.append(entry)
        places.append(place)
    return entries, places


def _report_unreadable(path: Path, what: str, place: int, error: Exception, report: Report) -> None:
    where = f"{_PLURALS[what]}[{place}]"
    reason = str(error).replace("`$.", "`").replace(" - at `$`", "")
    report.add(
        f"{what} entry that cannot be read",
        severity="error",
        action=STOPS_TRAINING,
        where=[place],
        what=f"{what} number",
        message=f"{path} is not a COCO instances file: {reason} in {where}"
        + (f": {ONE_CLASS_ADVICE}" if "field `category_id`" in reason or "`null` - at `category_id`" in reason else ""),
    )


_PLURALS = {"image": "images", "annotation": "annotations", "category": "categories"}
