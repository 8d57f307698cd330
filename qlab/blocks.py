"""Blocks: a decoder one transformer block at a time, each with the inputs that the blocks before it really produce."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from qlab.errors import QlabError
from qlab.families import Fold
from qlab.nn import QLinear
from qlab.plan import LinearPlan
from qlab.spec import QuantSpec
from qlab.stats import Stats

BATCH_TOKENS = 4096
"""Tokens that go through a block at once: enough that dequantizing a weight costs little beside using it."""


class _Reached(Exception):
    """Raised by the last block's stand-in: nothing behind it is needed."""


def decoder_blocks(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The name of the list of transformer blocks, and the blocks: the longest list whose modules hold linears."""
    lists = [(name, list(m)) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    stacks = [(n, blocks) for n, blocks in lists if blocks and all(any(_linears(b)) for b in blocks)]
    if not stacks:
        raise QlabError(f"{type(model).__name__} has no list of blocks with linears: calibration goes block by block")
    return max(stacks, key=lambda stack: (len(stack[1]), -len(stack[0])))


def _linears(block: nn.Module) -> Iterator[nn.Module]:
    return (m for m in block.modules() if isinstance(m, nn.Linear | QLinear))


class BlockStream:
    """Calibration tokens on their way through a model: `observe` block i, change it, then `advance` through it.

    ids: [samples, tokens]. Only one block's inputs are held, [samples, tokens, hidden] in batches, and as many again
    with `float_path`, which also follows what the unchanged model would have sent (GPTAQ, learned rounding):
    `advance_float` through block i before it is changed.
    """

    def __init__(self, model: nn.Module, ids: Tensor, float_path: bool = False):
        self.path, self.blocks = decoder_blocks(model)
        self._calls: list[tuple[tuple, dict[str, Any]]] = []
        entered = torch.cat([self._enter(model, sample[None]) for sample in ids])
        self.hidden = list(entered.split(max(1, BATCH_TOKENS // ids.shape[1])))
        self.float_hidden = list(self.hidden) if float_path else None

    def name(self, index: int) -> str:
        """The name of block `index` in the model, such as "model.layers.0"."""
        return f"{self.path}.{index}"

    @torch.no_grad()
    def _enter(self, model: nn.Module, sample: Tensor) -> Tensor:
        """What enters the first block; every block's other arguments (masks, rotary tables) are noted on the way."""
        calls: list[tuple[tuple, dict[str, Any]]] = []
        entered: list[Tensor] = []

        def stand_in(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            entered.append(hidden_states)
            calls.append((args, kwargs))
            if len(calls) == len(self.blocks):
                raise _Reached
            return hidden_states

        with _forward(self.blocks, stand_in), suppress(_Reached):
            model(input_ids=sample, use_cache=False)
        if len(calls) != len(self.blocks):
            raise QlabError(
                f"{type(model).__name__} calls {len(calls)} of its {len(self.blocks)} blocks: unknown build"
            )
        self._calls = calls  # samples are equally long and unpadded: these are the same for all, and broadcast
        return entered[0]

    def run(self, index: int, X: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Block `index` on X [samples, tokens, hidden]; `weights` stand in for those of its linears, by name."""
        args, kwargs = self._calls[index]
        replaced = {f"{name}.weight": W for name, W in (weights or {}).items()}
        out = torch.func.functional_call(self.blocks[index], replaced, (X, *args), kwargs)
        return out[0] if isinstance(out, tuple) else out

    @torch.no_grad()
    def observe(self, index: int, linears: Iterable[str], cross: bool = False, gram: bool = True) -> dict[str, Stats]:
        """Statistics of the inputs of `linears` (names inside the block), in the order they run in.

        Linears fed by one tensor share one Stats.
        """
        block = self.blocks[index]
        modules = {name: cast(nn.Linear, block.get_submodule(name)) for name in linears}
        leaders, last = self._leaders(index, modules)
        stats = {
            n: Stats(modules[n].in_features, gram=gram, cross=cross, device=modules[n].weight.device)
            for n in dict.fromkeys(leaders.values())
        }
        watched = {n: modules[n] for n in stats}
        for i, x in enumerate(self.hidden):
            floats: dict[str, Tensor] = {}
            if cross and self.float_hidden is not None:
                with _inputs(watched, floats.__setitem__, last):
                    self.run(index, self.float_hidden[i])
            with _inputs(watched, lambda n, X: self._add(stats, index, n, X, floats), last):  # noqa: B023
                self.run(index, x)
        return {name: stats[leader] for name, leader in leaders.items()}

    def _add(self, stats: dict[str, Stats], index: int, name: str, X: Tensor, floats: dict[str, Tensor]) -> None:
        stats[name].update(X, f"the input of {self.name(index)}.{name}", floats.get(name))

    def _leaders(self, index: int, modules: dict[str, nn.Linear]) -> tuple[dict[str, str], str | None]:
        """For each linear the first one that reads the same tensor; one short run tells.

        And the last of those, behind which nothing need be computed: None where a linear runs more than once.
        """
        calls: list[tuple[str, Tensor]] = []
        with _inputs(modules, lambda n, X: calls.append((n, X))):
            self.run(index, self.hidden[0])
        seen = dict(calls)
        if missing := modules.keys() - seen.keys():
            raise QlabError(f"{self.name(index)}.{min(missing)} was never called during calibration: skip it by a rule")
        leaders = {n: next(m for m, X in seen.items() if X is seen[n]) for n in seen}
        once = len(calls) == len(modules)
        return leaders, list(dict.fromkeys(leaders.values()))[-1] if once and leaders else None

    @torch.no_grad()
    def advance(self, index: int) -> None:
        """Replace the inputs by what block `index`, as it is now, makes of them."""
        for i, x in enumerate(self.hidden):
            self.hidden[i] = self.run(index, x)

    @torch.no_grad()
    def advance_float(self, index: int) -> None:
        """The float path's inputs become its outputs: the targets of block `index`, which is still unchanged."""
        if self.float_hidden is not None:
            self.float_hidden = [self.run(index, x) for x in self.float_hidden]


@dataclass
class StreamedBlock:
    """Block `index` of a stream as a pass sees it: `qlab.passes.Block`."""

    stream: BlockStream
    index: int
    linears: Mapping[str, nn.Linear]
    specs: Mapping[str, QuantSpec]
    stats: dict[str, Stats]
    folds: Sequence[Fold]
    plans: dict[str, LinearPlan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plans = {name: self.plans.get(name, LinearPlan()) for name in self.linears}

    @property
    def name(self) -> str:
        """The block's name in the model."""
        return self.stream.name(self.index)

    @property
    def inputs(self) -> Sequence[Tensor]:
        """Batches [samples, tokens, hidden] as the quantized predecessors send them."""
        return self.stream.hidden

    @torch.no_grad()
    def target(self, batch: int) -> Tensor:
        """What the float block answers to a batch: on the float model's inputs where the stream follows them."""
        if self.stream.float_hidden is not None:
            return self.stream.float_hidden[batch]
        return self.stream.run(self.index, self.stream.hidden[batch])

    def forward(self, X: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """The block's output on X [samples, tokens, hidden] with some weights replaced, by linear name."""
        return self.stream.run(self.index, X, weights)


@contextmanager
def _forward(blocks: list[nn.Module], stand_in: Any) -> Iterator[None]:
    """Let `stand_in` answer in place of every block."""
    for block in blocks:
        block.forward = stand_in
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@contextmanager
def _inputs(modules: dict[str, nn.Linear], take: Any, last: str | None = None) -> Iterator[None]:
    """Hand every input of the named linears to `take(name, X)`; with that of `last` the run ends."""

    def hook(name: str, X: Tensor) -> None:
        take(name, X)
        if name == last:
            raise _Reached

    handles = [m.register_forward_pre_hook(lambda _, args, n=n: hook(n, args[0])) for n, m in modules.items()]
    try:
        with suppress(_Reached):
            yield
    finally:
        for handle in handles:
            handle.remove()
