"""The GPU benchmark (`run.py`): it needs torch, Triton and this folder. `scripts/bench_gpu.py` runs it from a clone.

`report.py` shows recorded runs and needs no Triton, so this file imports nothing.
"""
