"""The GPU benchmark from a bare clone: `python scripts/bench_gpu.py [--json] [--out FILE] [--model FOLDER]`.

It needs torch and Triton; nothing is installed. The kernels are imported under a name of their own, since `kernels` is
that of a package which transformers looks for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[1] / "kernels" / "triton"
NAME = "qlab_triton_kernels"


def kernels() -> ModuleType:
    """The folder as a package."""
    file, places = FOLDER / "__init__.py", [str(FOLDER)]
    spec = importlib.util.spec_from_file_location(NAME, file, submodule_search_locations=places)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """The benchmark's exit code."""
    found = kernels()
    if not found.available:
        report = importlib.import_module(f"{NAME}.bench.report")
        return int(report.show_recorded(found.missing, "--json" in sys.argv))
    return int(importlib.import_module(f"{NAME}.bench.run").main(sys.argv[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
