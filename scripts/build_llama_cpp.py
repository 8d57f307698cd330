"""Build llama.cpp once (about ten minutes on two cores) into the user's cache, and print the folder to import it from.

`make test-llama-cpp` runs this. The build is llama-cpp-python's; it is made for any processor with AVX2 rather than for
this one, since a cache may outlive a machine. With --fast it also uses the AVX-512 that this processor has, to be
measured beside (`make bench`). Never llama.cpp's own "native": it takes AMX without asking the kernel, and crashes.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from qlab.kernels import cpu

from qlab.cache import cache_dir

VERSION = "0.3.36"
CMAKE = "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF"
FAST = {
    "avx512bw": "-DGGML_AVX512=ON",
    "avx512vnni": "-DGGML_AVX512_VNNI=ON",
    "avx512vbmi": "-DGGML_AVX512_VBMI=ON",
    "avx512bf16": "-DGGML_AVX512_BF16=ON",
}
"""What a processor's features switch on."""
# diskcache is the one module that it imports beside those of qlab's own environment.
PACKAGES = (f"llama-cpp-python=={VERSION}", "diskcache==5.6.3")


def folder(fast: bool = False) -> Path:
    """Where the built packages lie."""
    python = "".join(platform.python_version_tuple()[:2])
    base = cache_dir() / f"llama-cpp-python-{VERSION}-cp{python}"
    return base.with_name("-".join([base.name, *flags()])) if fast and flags() else base


def flags() -> list[str]:
    """Those of FAST that this processor has."""
    return [name for name in FAST if name in cpu.features()]


def build(into: Path, fast: bool = False) -> None:
    """Compile and install into `into`."""
    cmake = " ".join([CMAKE, *(FAST[name] for name in flags() if fast)])
    # a compiler for each core; scikit-build-core leaves that to the environment
    env = {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1), **os.environ, "CMAKE_ARGS": cmake}
    env.pop("PIP_CONSTRAINT", None)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--disable-pip-version-check", "-q", "--target"]
    subprocess.run([*command, str(into), *PACKAGES], env=env, check=True, stdout=sys.stderr)


def main() -> None:
    """Build unless that has been done, then print the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="for this processor's AVX-512")
    fast = parser.parse_args().fast
    target = folder(fast)
    if not target.exists():
        print("building llama.cpp, once: about ten minutes …", file=sys.stderr, flush=True)
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped
        build(part, fast)
        part.replace(target)
    print(target)


if __name__ == "__main__":
    main()
