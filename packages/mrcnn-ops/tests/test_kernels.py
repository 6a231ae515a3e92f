"""The C++ tests of the kernels (csrc/tests), built without TensorFlow: as they are, and under the sanitizers.

`make test-kernels` runs them; csrc/tests/CMakeLists.txt says how to run them by hand. The first build takes half a
minute; later ones compile only what changed.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = PACKAGE / "csrc" / "tests"
SEARCH_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
MISSING = [tool for tool in ("cmake", "ctest", "c++") if shutil.which(tool, path=SEARCH_PATH) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SOURCES.is_dir(), reason="needs the sources of mrcnn-ops"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]


def run(*command: str | Path) -> str:
    environment = {**os.environ, "PATH": SEARCH_PATH}
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.mark.parametrize(("folder", "sanitize"), [("tests", "OFF"), ("tests-sanitized", "ON")])
def test_kernels(folder, sanitize):
    build = PACKAGE / "build" / folder
    run("cmake", "-S", SOURCES, "-B", build, f"-DMRCNN_OPS_SANITIZE={sanitize}")
    run("cmake", "--build", build)
    output = run("ctest", "--test-dir", build, "--output-on-failure")
    # Otherwise a build without any test program would pass.
    assert all(source.stem in output for source in SOURCES.glob("*_test.cc"))
    assert "100% tests passed" in output
