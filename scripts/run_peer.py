"""Quantizes the reference with another tool, to int4-g64-sym, on the calibration tokens that qlab uses.

It runs in an environment of that tool's own, where qlab is not installed; `make_record_peers.py` says what to call.

pip install gptqmodel            python scripts/run_peer.py gptqmodel IDS MODEL OUT
pip install llmcompressor        python scripts/run_peer.py llmcompressor IDS MODEL OUT
pip install auto-round           python scripts/run_peer.py auto-round IDS MODEL OUT

IDS: a safetensors file with "ids" [samples, tokens]; MODEL: the float folder; OUT: where the quantized folder goes.
Beside it, OUT.peer.json: versions, options, seconds.
"""
# mypy: ignore-errors

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
BITS, GROUP = 4, 64


def gptqmodel(ids, model: str, out: str) -> tuple[dict, float]:
    """GPTQ by GPTQModel: act-order and damping as its defaults have them."""
    from gptqmodel import GPTQModel, QuantizeConfig

    options = {"bits": BITS, "group_size": GROUP, "sym": True, "device": "cpu"}
    loaded = GPTQModel.load(model, QuantizeConfig(**options))
    calibration = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in ids]
    start = time.perf_counter()
    loaded.quantize(calibration, batch_size=1, calibration_concat_size=None)
    seconds = time.perf_counter() - start
    loaded.save(out)
    return options, seconds


def llmcompressor(ids, model: str, out: str) -> tuple[dict, float]:
    """GPTQ by llm-compressor, compressed-tensors pack-quantized."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"num_bits": BITS, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()})
    groups = {"group_0": {"targets": ["Linear"], "weights": options}}
    start = time.perf_counter()
    oneshot(
        model=loaded, dataset=rows, recipe=[GPTQModifier(ignore=["lm_head"], config_groups=groups)],
        max_seq_length=ids.shape[1], num_calibration_samples=len(ids), shuffle_calibration_samples=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    loaded.save_pretrained(out, save_compressed=True)
    AutoTokenizer.from_pretrained(model).save_pretrained(out)
    return options, seconds


def auto_round(ids, model: str, out: str) -> tuple[dict, float]:
    """AutoRound at 20 iterations, in GPTQ's layout."""
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {
        "bits": BITS, "group_size": GROUP, "sym": True, "iters": 20, "batch_size": 8, "nsamples": len(ids),
        "seqlen": ids.shape[1], "seed": 42,
    }  # fmt: skip
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    batches = [ids[i : i + 8] for i in range(0, len(ids), 8)]
    tuner = AutoRound(loaded, AutoTokenizer.from_pretrained(model), dataset=batches, device_map="cpu", **options)
    start = time.perf_counter()
    tuner.quantize_and_save(out, format="auto_gptq")
    return options, time.perf_counter() - start


TOOLS = {"gptqmodel": gptqmodel, "llmcompressor": llmcompressor, "auto-round": auto_round}


def main() -> None:
    """Run one tool and note how."""
    if len(sys.argv) != 5 or sys.argv[1] not in TOOLS:
        sys.exit(__doc__)
    tool, ids_file, model, out = sys.argv[1:]
    from safetensors.torch import load_file

    options, seconds = TOOLS[tool](load_file(ids_file)["ids"], model, out)
    versions = {name: version(name) for name in (tool, "torch", "transformers")} | {"python": platform.python_version()}
    about = {"tool": tool, "options": options, "versions": versions, "seconds": round(seconds)}
    Path(f"{out.rstrip('/')}.peer.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
