"""The documents name only what exists: links, files, modules, experiments, options of training and of commands."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from test_public_names import is_module, module_path
from workspace import PACKAGES, ROOT, import_name

from mrcnn_train import RunConfig

DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "infra").rglob("*.md")),
    *sorted((ROOT / "packages").glob("*/README.md")),
    *sorted((ROOT / "packages").glob("*/docs/**/*.md")),
]
SUFFIXES = ("py", "cc", "cu", "h", "cmake", "sh")  # of sources; commands write files of other kinds
FENCE = re.compile(r"^```.*?\n(.*?)^```", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)
GROUPS = "data|model|train|optimizer|log|profile|checkpoint|eval|stop_at|distributed|launch|run|auto"
OPTION = re.compile(rf"(?<![\w./])((?:{GROUPS})(?:\.\w+)+)(?==)")
OPTION_SPAN = re.compile(rf"((?:{GROUPS})(?:\.\w+)+)(?:=.*)?")
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")  # NAME.png, model.NAME
COMMANDS = {
    "mrcnn-eval": "mrcnn-eval",
    "mrcnn-data": "mrcnn-data",
    "python -m mrcnn_model.convert": "mrcnn-model",
    "python -m mrcnn_model.export": "mrcnn-model",
}
OF_HOROVOD = {"xla_mpi_ops.cc"}


class Document(NamedTuple):
    path: Path
    text: str

    @property
    def prose(self) -> str:
        return FENCE.sub("", self.text)

    @property
    def spans(self) -> list[str]:
        """Return the `code` in the running text."""
        return CODE_SPAN.findall(self.prose)

    @property
    def files(self) -> list[str]:
        """Return what may be a path: code in the running text, and source files in code blocks."""
        return [*self.spans, *re.findall(r"(?<![\w./-])[\w./*]+\.(?:py|cc|h|sh)\b", "".join(FENCE.findall(self.text)))]

    @property
    def code(self) -> list[str]:
        """Return the lines of code blocks, continued lines joined, and the code in the running text."""
        blocks = "".join(FENCE.findall(self.text)).replace("\\\n", " ")
        return [*blocks.splitlines(), *self.spans]

    @property
    def folders(self) -> list[Path]:
        """Return the folders that a path in the document may be relative to."""
        owner = next((p for p in self.path.parents if p.parent == ROOT / "packages"), None)
        packages = [owner] if owner else [ROOT / "packages" / name for name in PACKAGES]
        inner = [folder for p in packages for folder in (p, p / "src", p / "src" / import_name(p.name))]
        return [ROOT, self.path.parent, *inner]


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def document(request: pytest.FixtureRequest) -> Document:
    return Document(request.param, request.param.read_text())


def test_links_lead_to_files_and_headings(document: Document) -> None:
    assert list(broken_links(document)) == []


def broken_links(document: Document) -> Iterator[str]:
    for target in ("".join(groups) for groups in LINK.findall(document.prose)):
        file, _, anchor = target.partition("#")
        path = document.path.parent / file if file else document.path
        if "://" in target:
            continue
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            yield target


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_exist(document: Document) -> None:
    assert sorted(name for name in set(document.files) if not is_there(name, document.folders)) == []


def is_there(span: str, folders: list[Path]) -> bool:
    """Return whether the file or folder `span` exists; True for text that does not look like one of our paths."""
    if not re.fullmatch(r"[\w.*/-]+", span) or span.startswith(("..", "/")) or PLACEHOLDER.search(span):
        return True
    has_suffix = span.rpartition(".")[2] in SUFFIXES
    if "/" not in span and not span.startswith("mrcnn_"):
        return not has_suffix or span in OF_HOROVOD or any(True for folder in folders for _ in folder.rglob(span))
    first = span.split("/")[0]
    is_ours = first in ("packages", "bench", "csrc", "infra", "tests", "src", "docs") or re.match(r"mrcnn_\w+/", span)
    return not is_ours or any(True for folder in folders for _ in folder.glob(span.rstrip("/")))


def test_modules_and_their_names_exist(document: Document) -> None:
    names = {name for code in document.code for name in re.findall(r"(?<![\w./-])mrcnn_\w+(?:\.\w+)+", code)}
    assert sorted(name for name in names if not is_name(name)) == []


def is_name(name: str) -> bool:
    """Return whether `name` is one of our modules, or its last part appears in the module named before it."""
    module, _, attribute = name.rpartition(".")
    path = module_path(module)
    return is_module(name) or (path is not None and attribute in re.findall(r"\w+", path.read_text()))


def test_experiments_exist(document: Document) -> None:
    folder = ROOT / "packages" / "mrcnn-train" / "src" / "mrcnn_train" / "conf" / "experiment"
    named = set(re.findall(r"\+experiment=(\w+)", document.text)) - {"NAME"}
    assert named - {path.stem for path in folder.glob("*.yaml")} == set()


def test_options_of_training_exist(document: Document) -> None:
    names = {name for name in named_options(document.code) if not PLACEHOLDER.search(name)}
    assert sorted(name for name in names if not is_option(name)) == []


def named_options(code: list[str]) -> set[str]:
    """Return the options of training in `code`: `data.root` in `data.root=DIR` or in `data.root`."""
    spans = [match[1] for text in code if (match := OPTION_SPAN.fullmatch(text))]
    names = {name for text in code for name in OPTION.findall(text)} | set(spans)
    files = (*SUFFIXES, "safetensors", "json", "jsonl", "sbatch", "Dockerfile")
    return {name for name in names if name.rpartition(".")[2] not in files}


def is_option(name: str) -> bool:
    value: object = RunConfig()
    for part in name.split("."):
        if not hasattr(value, part):
            return name in ("data.synthetic", "auto.rules")  # of groups that are null by default
        value = getattr(value, part)
    return True


def test_options_of_commands_exist(document: Document) -> None:
    assert sorted(unknown_flags(document.code)) == []


def unknown_flags(code: list[str]) -> Iterator[str]:
    for line in code:
        for command, package in COMMANDS.items():
            if line.startswith(command + " "):
                words = shlex.split(line.partition(" #")[0])
                flags = {word.partition("=")[0] for word in words if word.startswith("--")}
                shown = shown_flags(words[1]) if command == "mrcnn-data" else set()
                yield from (f"{line}: {flag}" for flag in flags - shown - flags_in_source(package) - {"--help"})


@functools.cache
def flags_in_source(package: str) -> set[str]:
    """Return the strings in the sources of a package that look like `--option`."""
    sources = (path.read_text() for path in (ROOT / "packages" / package / "src").rglob("*.py"))
    return {flag for source in sources for flag in re.findall(r'"(--[\w-]+)"', source)}


@functools.cache
def shown_flags(subcommand: str) -> set[str]:
    """Return the options in the help of a subcommand: those of `mrcnn-data show` are made from the augmentations."""
    program = [str(Path(sys.executable).with_name("mrcnn-data")), subcommand, "--help"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return set(re.findall(r"--[\w-]+", done.stdout))


def test_every_command_of_the_makefile_that_a_document_names_exists(document: Document) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for code in document.code for word in re.findall(r"^(?:\w+=\S+ )*make ([a-z][a-z_-]*[a-z])", code)}
    benchmarks = {f"bench-{path.stem}" for path in (ROOT / "bench").glob("*.py")}
    assert named - targets - benchmarks == set()


def test_readers_find_what_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("""# One heading: `code`

[a](#one-heading-code) [b](#other) [c](missing.md) `bench/missing.py` `bench/ops.py` `missing.py` `mrcnn_data.missing`

```
python missing.py && python bench/timing.py
python -m mrcnn_train +experiment=small data.root=DIR data.rot=DIR 'model.anchor_sizes=[1]' model.anchors=2
mrcnn-eval --checkpoint DIR --report --reprot
mrcnn-data show ROOT train --crop-size 3 --missing 4  # --not-an-option
```
""")
    page = Document(path, path.read_text())
    assert list(broken_links(page)) == ["#other", "missing.md"]
    missing = {name for name in page.files if not is_there(name, page.folders)}
    assert missing == {"bench/missing.py", "missing.py"}
    assert not is_name("mrcnn_data.missing")
    assert is_name("mrcnn_data.CocoDataset")
    assert {name for name in named_options(page.code) if not is_option(name)} == {"data.rot", "model.anchors"}
    assert [text.rpartition(" ")[2] for text in unknown_flags(page.code)] == ["--reprot", "--missing"]
