from __future__ import annotations

from pathlib import Path

import pytest
from workspace import build_wheels


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the five wheels, once a session; by package name."""
    return build_wheels(tmp_path_factory.mktemp("dist"))
