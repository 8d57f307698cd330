"""Makes data/records/protocols.json, lesson 03: one text, several models, four protocols, loss by loss.

Every model runs three times over the text: in windows of 2048, in windows of 512, and in windows of 512 that start half
a window later. The four protocols differ only in which of those losses they count (`protocol_losses`).

    python scripts/make_record_protocols.py [--chunks 10] [--threads 1]     about 3 minutes a chunk on one core
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import qlab
from qlab.evaluate import predict
from qlab.metrics import token_kl
from qlab.nn import QLinear
from qlab.records import provenance, save_record

LONG, SHORT = 2048, 512
HALF = SHORT // 2
# name -> (spec, method, its options); None is the float model the others are made from
MODELS: dict[str, tuple[str, str, dict[str, Any]] | None] = {
    "reference": None,
    "int8": ("int8-row-sym", "rtn", {}),
    "int4 g64": ("int4-g64-asym", "rtn", {}),
    "int4 mse": ("int4-g128-asym", "mse", {"grid": 20}),  # 16 ranges for each group
    "int4 rtn": ("int4-g128-asym", "rtn", {}),
    "int3 g64": ("int3-g64-asym", "rtn", {}),
}
PROTOCOLS = {
    "2048": "windows of 2048, every prediction (GPTQ)",
    "512": "windows of 512, every prediction",
    "llama.cpp": "windows of 512, only the second half of each (llama.cpp)",
    "sliding": "windows of 512 that advance by 256, only the new tokens (Hugging Face's guide)",
}
EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2047)  # positions in a window of 2048, for the loss by position


@torch.inference_mode()
def window_losses(model: nn.Module, ids: Tensor, start: int, length: int) -> Tensor:
    """Losses of the length - 1 predictions inside ids[start : start + length]."""
    return predict("model", model, ids[start : start + length], 0, start // length).losses


def protocol_losses(long: Tensor, short: list[Tensor], shifted: list[Tensor | None]) -> dict[str, list[Tensor]]:
    """The losses that each protocol counts, in clusters, from the three runs over one chunk of 2048 tokens.

    A cluster is one window; for "sliding" it is the 512 tokens that two neighbouring windows score between them.
    """
    return {
        "2048": [long],
        "512": short,
        "llama.cpp": [losses[HALF:] for losses in short],
        # the prediction at position 255 already has its target in the second half
        "sliding": [a if b is None else torch.cat([b[HALF - 1 :], a[HALF - 1 :]])
                    for a, b in zip(short, shifted, strict=True)],
    }  # fmt: skip


def run_chunk(models: dict[str, nn.Module], ids: Tensor, chunk: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each model its losses by protocol in chunk number `chunk`, and its distance to the reference."""
    starts = range(chunk * LONG, (chunk + 1) * LONG, SHORT)
    distances: dict[str, list] = {name: [] for name in models}
    short: dict[str, list] = {name: [] for name in models}
    for start in starts:
        for name, losses, distance in run_window(models, ids, start):
            short[name].append(losses)
            distances[name].append(distance)
    for name, model in models.items():
        long = window_losses(model, ids, chunk * LONG, LONG)
        shifted = [window_losses(model, ids, s - HALF, SHORT) if s else None for s in starts]
        yield name, {"losses": protocol_losses(long, short[name], shifted), "distance": distances[name]}


@torch.inference_mode()
def run_window(
    models: dict[str, nn.Module], ids: Tensor, start: int
) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """Each model's losses on one window of 512, and how its predictions differ from the first model's."""
    tokens = ids[start : start + SHORT]
    base = None
    for name, model in models.items():
        now = predict(name, model, tokens, 0, start // SHORT)
        base = base or now
        right, was_right = (p.logits.argmax(-1) == tokens[1:] for p in (now, base))
        yield name, now.losses, {
            "kl": token_kl(base.logits, now.logits),
            "same_top": now.logits.argmax(-1) == base.logits.argmax(-1),
            "right": right,
            "gained": right & ~was_right,
            "lost": was_right & ~right,
        }  # fmt: skip


class Row:
    """What is kept of one model: sums per cluster, and the KL of every token until its quantiles are taken."""

    def __init__(self, name: str, bits_per_weight: float) -> None:
        self.name, self.bits_per_weight = name, bits_per_weight
        self.nll: dict[str, list[float]] = {protocol: [] for protocol in PROTOCOLS}
        self.counts: dict[str, list[int]] = {key: [] for key in ("same_top", "right", "gained", "lost")}
        self.kl: list[Tensor] = []
        self.by_position: list[Tensor] = []

    def add(self, losses: dict[str, list[Tensor]], distance: list[dict[str, Tensor]]) -> None:
        """Take in one chunk."""
        for protocol, clusters in losses.items():
            self.nll[protocol] += [round(c.sum().item(), 3) for c in clusters]
        for key, counts in self.counts.items():
            counts += [int(d[key].sum()) for d in distance]
        self.kl += [d["kl"] for d in distance]
        self.by_position.append(losses["2048"][0])

    def to_dict(self) -> dict[str, Any]:
        """JSON values; losses and KL in nats, `nll` and `kl` are sums over the tokens of a cluster."""
        spec, method, _ = MODELS[self.name] or ("float32", "none", {})
        kl = torch.cat(self.kl)
        quantiles = {"kl_median": kl.quantile(0.5).item(), "kl_p999": kl.quantile(0.999).item()}
        means = torch.stack(self.by_position).mean(0)
        return {
            "name": self.name, "spec": spec, "method": method, "bits_per_weight": round(self.bits_per_weight, 4),
            "nll": self.nll, "kl": [round(k.sum().item(), 4) for k in self.kl],
            **{k: float(f"{v:.4g}") for k, v in quantiles.items()}, **self.counts,
            "loss_by_position": [round(means[a:b].mean().item(), 4) for a, b in pairwise(EDGES)],
        }  # fmt: skip


def build_models(reference: nn.Module, names: list[str]) -> dict[str, tuple[nn.Module, float]]:
    """Models of `names` with their true bits per weight; the quantized ones share the embedding with the reference."""
    built = {}
    for name in names:
        how = MODELS[name]
        if how is None:
            built[name] = reference, 32.0
            continue
        spec, method, settings = how
        model, report = qlab.quantized_copy(reference, qlab.Recipe.of(spec, method=method, **settings))
        built[name] = unpacked(model), report.bits_per_weight
    return built


def unpacked(model: nn.Module) -> nn.Module:
    """The model with every QLinear's W_hat written out once, the same numbers without dequantizing at each call."""
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, QLinear)]:
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(layer.W_hat(), requires_grad=False)
        model.set_submodule(name, plain)
    return model


def main() -> None:
    """Measure chunk by chunk and write the record after each, so that a stopped run leaves a shorter one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=10, help="chunks of 2048 tokens")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = qlab.load("reference")
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text("britannica").text, options.chunks * LONG)
    built = build_models(loaded.model, list(MODELS))
    rows = {name: Row(name, bits) for name, (_, bits) in built.items()}
    sizes: dict[str, list[int]] = {protocol: [] for protocol in PROTOCOLS}
    for chunk in range(options.chunks):
        for name, result in run_chunk({name: model for name, (model, _) in built.items()}, ids, chunk):
            rows[name].add(**result)
        for protocol, clusters in result["losses"].items():
            sizes[protocol] += [len(c) for c in clusters]
        seen = ids[: (chunk + 1) * LONG]
        text = {"name": "britannica", "tokens": len(seen), "bytes": len(loaded.tokenizer.decode(seen).encode())}
        file = save_record("protocols", record(chunk + 1, text, sizes, rows))
        print(f"chunk {chunk + 1} of {options.chunks}: {file.name}", file=sys.stderr, flush=True)


def record(chunks: int, text: dict[str, Any], sizes: dict[str, list[int]], rows: dict[str, Row]) -> dict[str, Any]:
    """The record as it stands after `chunks` chunks."""
    return {
        "made": provenance(f"python scripts/make_record_protocols.py --chunks {chunks}"),
        "about": "sums of token losses (nats) per window; all models on the same tokens",
        "text": text,
        "protocols": PROTOCOLS,
        "tokens": sizes,
        "edges": list(EDGES),
        "models": [row.to_dict() for row in rows.values()],
    }


if __name__ == "__main__":
    main()
