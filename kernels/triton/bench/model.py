"""A whole model's tokens per second, packed against the same model in float16, one beside the other in memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..device import INTERPRETED
from ..launch import multiply
from ..quantize import quantize
from ..weights import Weights
from .measure import Log, told
from .timing import Plain, Timer, interleaved, ratio, timer

BATCHES = (1,) if INTERPRETED else (1, 4, 16, 64)
PROMPT, STEPS, ROUNDS = (4, 1, 1) if INTERPRETED else (128, 16, 5)

Packed = tuple[Tensor, Weights, Tensor | None]
"""W in float16 [N, K], the same (or near it) packed, the bias."""
Pack = Callable[[nn.Module], Packed | None]


@dataclass
class Switch:
    """Which of the two multiplies, in every layer at once."""

    packed: bool = False


class Both(nn.Module):
    """A linear twice: in float16, and packed."""

    def __init__(self, dense: Tensor, weights: Weights, bias: Tensor | None, switch: Switch):
        super().__init__()
        self.dense, self.weights, self.bias, self.switch = dense, weights, bias, switch

    def forward(self, X: Tensor) -> Tensor:
        """X [..., K] → [..., N]."""
        if not self.switch.packed:
            return nn.functional.linear(X, self.dense, self.bias)
        Y = multiply(X.reshape(-1, X.shape[-1]).contiguous(), self.weights).reshape(*X.shape[:-1], -1)
        return Y if self.bias is None else Y + self.bias


def opened(folder: str, device: torch.device) -> tuple[Any, Pack]:
    """A float folder in float16, and what rounds its linears to 4 bits."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, use_safetensors=True)
    if getattr(model.config, "quantization_config", None):
        raise SystemExit(f"{folder} is quantized already: install qlab and run: qlab bench gpu --model {folder}")
    model = model.to(device).eval().requires_grad_(False)
    return model, rounding(model)


def rounding(model: Any) -> Pack:
    """What rounds float linears to 4 bits; None for the head, and where 32 does not divide the columns."""
    head = model.get_output_embeddings()

    def pack(linear: nn.Module) -> Packed | None:
        if linear is head or not isinstance(linear, nn.Linear) or linear.in_features % 32:
            return None
        group = next(size for size in (128, 64, 32) if linear.in_features % size == 0)
        W = linear.weight.data.half().contiguous()
        return W, quantize(W, 4, group), linear.bias

    return pack


def speeds(
    model: Any, pack: Pack, name: str, device: torch.device, log: Log,
    batches: Sequence[int] = BATCHES,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows of prefill and decode for each batch; a batch that does not fit the memory is noted."""
    switch = Switch()
    count = both(model, pack, switch)
    if not count:
        log.failures.append(f"{name}: none of its linears can be packed")
        return
    log.note(f"{name}: {count} linears packed, {PROMPT} tokens read, {STEPS} written per timing")
    for m in batches:
        ids = torch.randint(model.config.vocab_size, (m, PROMPT), generator=torch.Generator().manual_seed(0)).to(device)
        for measure, prepare, tokens in (("prefill", _prefill, m * PROMPT), ("decode", _decode, m)):
            try:
                yield _row(measure, m, tokens, *_times(model, ids, switch, prepare, log))
            except torch.cuda.OutOfMemoryError:
                log.note(f"{name}: {measure} of batch {m} does not fit the memory")


def both(model: Any, pack: Pack, switch: Switch) -> int:
    """Put `Both` in the place of every linear that can be packed; how many."""
    count = 0
    for name, module in list(model.named_modules()):
        if (found := pack(module)) is not None:
            model.set_submodule(name, Both(*found, switch))
            count += 1
    return count


@torch.no_grad()
def _times(
    model: Any, ids: Tensor, switch: Switch, prepare: Callable[..., Callable[[], Any]], log: Log
) -> tuple[dict[str, list[float]], bool]:
    timers: dict[str, Timer] = {}
    for packed in (False, True):
        step = prepare(model, ids, switch, packed)
        timers["packed" if packed else "fp16"] = _timer(step, log)
    graph = not any(isinstance(one, Plain) for one in timers.values())
    return interleaved(timers, ROUNDS), graph


def _timer(step: Callable[[], Any], log: Log) -> Timer:
    """A graph where the model lets itself be captured; else launches, which is said in the row and once why."""
    try:
        return timer([step])
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        log.note(f"the model is not captured in a CUDA graph: {told(error)}")
        torch.cuda.synchronize()
        return Plain([step])


def _prefill(model: Any, ids: Tensor, switch: Switch, packed: bool) -> Callable[[], Any]:
    def read() -> Any:
        switch.packed = packed
        return model(ids, use_cache=False, logits_to_keep=1).logits

    return read


def _decode(model: Any, ids: Tensor, switch: Switch, packed: bool) -> Callable[[], Any]:
    """One step of a static cache that holds the prompt; at its end it begins again after the prompt."""
    from transformers import StaticCache

    switch.packed = packed
    cache = StaticCache(config=model.config, max_cache_len=PROMPT + STEPS)
    model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    last = ids[:, -1:].clone()

    def write() -> Any:
        switch.packed = packed
        for layer in cache.layers:
            layer.cumulative_length.fill_(PROMPT)  # type: ignore[union-attr]
        for _ in range(STEPS):
            logits = model(last, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            last.copy_(logits[:, -1:].argmax(-1))

    return write


def _row(measure: str, m: int, tokens: int, times: dict[str, list[float]], graph: bool) -> dict[str, Any]:
    middle, low = ratio(times["fp16"], times["packed"])
    tokens *= STEPS if measure == "decode" else 1
    speed, dense = (tokens / statistics.median(times[name]) for name in ("packed", "fp16"))
    return {
        "measure": measure, "m": m, "prompt": PROMPT, "tokens_per_second": speed, "fp16_tokens_per_second": dense,
        "vs_fp16": middle, "vs_fp16_p10": low, "graph": graph,
    }  # fmt: skip
