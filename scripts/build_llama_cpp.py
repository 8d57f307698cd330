"""Build llama.cpp once (about ten minutes on two cores) into the user's cache, and print the folder to import it from.

`make test-llama-cpp` runs this. The build is llama-cpp-python's; it is made for any processor with AVX2 rather than for
this one, since a cache may outlive a machine.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from qlab.cache import cache_dir

VERSION = "0.3.36"
CMAKE = "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF"
# diskcache is the one module that it imports beside those of qlab's own environment.
PACKAGES = (f"llama-cpp-python=={VERSION}", "diskcache==5.6.3")


def folder() -> Path:
    """Where the built packages lie."""
    python = "".join(platform.python_version_tuple()[:2])
    return cache_dir() / f"llama-cpp-python-{VERSION}-cp{python}"


def build(into: Path) -> None:
    """Compile and install into `into`."""
    # a compiler for each core; scikit-build-core leaves that to the environment
    env = {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1), **os.environ, "CMAKE_ARGS": CMAKE}
    env.pop("PIP_CONSTRAINT", None)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--disable-pip-version-check", "-q", "--target"]
    subprocess.run([*command, str(into), *PACKAGES], env=env, check=True, stdout=sys.stderr)


def main() -> None:
    """Build unless that has been done, then print the folder."""
    if not folder().exists():
        print("building llama.cpp, once: about ten minutes …", file=sys.stderr, flush=True)
        part = folder().with_name(folder().name + ".part")
        shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped
        build(part)
        part.replace(folder())
    print(folder())


if __name__ == "__main__":
    main()
