"""Print the packages in poetry.lock as a requirements file with hashes, which pip can install without Poetry.

python infra/locked.py | pip install --no-deps --require-hashes -r /dev/stdin
python infra/locked.py --group gpu                    # this group's packages and those of main
python infra/locked.py --group dev --only poetry-core pathspec
python infra/locked.py --without tensorflow           # where it is installed already
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

LOCK = Path(__file__).resolve().parents[1] / "poetry.lock"


def requirements(
    lock: dict[str, Any], groups: Collection[str], *, only: Collection[str] = (), without: Collection[str] = ()
) -> Iterator[str]:
    """Yield a line for each package of these groups, except the packages of this repository.

    Args:
        lock: the contents of poetry.lock.
        only: names of packages; empty for all.
        without: names of packages to leave out.
    """
    for package in lock["package"]:
        wanted = [group for group in package["groups"] if group in groups]
        if not wanted or "source" in package:
            continue
        if package["name"] in without or (only and package["name"] not in only):
            continue
        markers = package.get("markers", {})  # one text, or one for each group that has a condition
        conditions = [markers if isinstance(markers, str) else markers.get(group, "") for group in wanted]
        condition = "" if "" in conditions else " or ".join(f"({text})" for text in dict.fromkeys(conditions))
        hashes = " ".join(f"--hash={file['hash']}" for file in package["files"])
        yield f"{package['name']}=={package['version']}{' ; ' + condition if condition else ''} {hashes}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the packages of poetry.lock as requirements with hashes.")
    parser.add_argument("--group", action="append", default=[], help="a group of the lock besides main (gpu, dev)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="print only these packages")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="leave these packages out")
    arguments = parser.parse_args()
    lock = tomllib.loads(LOCK.read_text(encoding="utf-8"))
    known = {group for package in lock["package"] for group in package["groups"]}
    if missing := [group for group in arguments.group if group not in known]:
        print(f"locked.py: poetry.lock has no group {', '.join(missing)}: run make lock to renew it", file=sys.stderr)
        return 1
    lines = list(requirements(lock, {"main", *arguments.group}, only=arguments.only, without=arguments.without))
    if missing := [name for name in arguments.only if not any(line.startswith(f"{name}==") for line in lines)]:
        print(f"locked.py: not in poetry.lock: {', '.join(missing)}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
