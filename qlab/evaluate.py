"""Perplexity by two protocols and distance to a reference model, streamed window by window."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from qlab import metrics
from qlab.errors import QlabError
from qlab.metrics import LogHistogram, WindowMean, exp_with_se, token_kl
from qlab.progress import track

# protocol -> first position of a window whose prediction of the next token is scored
PROTOCOLS: dict[str, Callable[[int], int]] = {
    "windows": lambda window: 0,  # every prediction inside the window: GPTQ, arXiv:2210.17323
    "llama.cpp": lambda window: window // 2,  # the second half only: tools/perplexity/perplexity.cpp, `first`
}


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text and, with a reference, how far it moved from it.

    `tokens` counts the scored predictions; losses and KL are in nats. Standard errors are clustered by window
    and undefined (NaN; None in `to_dict`) with fewer than two windows. The fields from `kl_mean` to
    `ppl_ratio_se` need a reference. `token_losses` and, with a reference, `token_kl`, kept on request, are float32
    [windows, scored per window].
    """

    tokens: int
    windows: int
    window: int
    protocol: str
    perplexity: float
    perplexity_se: float
    kl_mean: float | None = None
    kl_se: float | None = None
    kl_median: float | None = None
    kl_p999: float | None = None
    top1_agreement: float | None = None
    ppl_ratio: float | None = None
    ppl_ratio_se: float | None = None
    token_losses: Tensor | None = field(default=None, repr=False, compare=False)
    token_kl: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def title(self) -> str:
        """What was scored, and how."""
        return f"{self.tokens:,} predictions in {self.windows} windows of {self.window} ({self.protocol})"

    def facts(self) -> dict[str, Any]:
        """Nothing beyond the table."""
        return {}

    def table(self) -> list[dict[str, Any]]:
        """One row per measure, with its standard error where it has one."""
        errors = {"perplexity": self.perplexity_se, "ppl_ratio": self.ppl_ratio_se, "kl_mean": self.kl_se}
        measures = ("perplexity", "ppl_ratio", "kl_mean", "kl_median", "kl_p999", "top1_agreement")
        values = {name: getattr(self, name) for name in measures}
        return [{"measure": k, "value": v, "standard_error": errors.get(k)} for k, v in values.items() if v is not None]

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON, which has no NaN and no infinity: both become None."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {name: values.pop(name) for name in ("token_losses", "token_kl")}
        safe = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        return safe | {name: tensor.tolist() for name, tensor in kept.items() if tensor is not None}


def evaluate(
    model: nn.Module,
    ids: Tensor | Sequence[int],
    *,
    reference: nn.Module | None = None,
    window: int = 512,
    protocol: str = "windows",
    bos_id: int | None = None,
    token_losses: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Evaluate one model on the token ids of a text; arguments and errors as for `evaluate_many`."""
    return evaluate_many(
        {"model": model},
        ids,
        reference=reference,
        window=window,
        protocol=protocol,
        bos_id=bos_id,
        token_losses=token_losses,
        progress=progress,
    )["model"]


def evaluate_many(
    models: Mapping[str, nn.Module],
    ids: Tensor | Sequence[int],
    *,
    reference: nn.Module | None = None,
    window: int = 512,
    protocol: str = "windows",
    bos_id: int | None = None,
    token_losses: bool = False,
    progress: bool = True,
) -> dict[str, Evaluation]:
    """Evaluate several models in step on one text; the reference runs once per window.

    ids [tokens] are cut into non-overlapping windows, the rest is dropped. Protocol "windows" scores all
    window - 1 predictions, "llama.cpp" those of the second half. `bos_id`, for models that want one, replaces
    the first token of every window. A model is called as `model(input_ids=[1, window], use_cache=False)` and
    answers with `.logits` [1, window, vocab]. Memory does not grow with the text, but for `token_losses`.
    Raises QlabError for a text shorter than a window, a window the model cannot take, vocabularies that
    differ, and NaN logits.
    """
    first = _first_scored(protocol, window)
    windows = _cut(ids, window)
    if bos_id is not None:
        windows[:, 0] = bos_id
    named = [*models.items()] + ([] if reference is None else [("reference", reference)])
    for name, model in named:
        _check_limits(name, model, windows)
    tallies = {name: Tally(name, token_losses) for name in models}
    bar = track(windows, len(windows), "evaluating " + ", ".join(models), enabled=progress)
    with _inference(model for _, model in named):
        for index, tokens in enumerate(bar):
            base = None if reference is None else predict("reference", reference, tokens, first, index)
            for name, model in models.items():
                # predictions stay nameless, so that the logits of one are freed before the next model runs
                tallies[name].add(
                    base if base and model is reference else predict(name, model, tokens, first, index), base
                )
            del base
    return {name: tally.result(window, protocol) for name, tally in tallies.items()}


@dataclass(frozen=True)
class Prediction:
    """What one model says at the scored positions of one window."""

    logits: Tensor  # [scored, vocab], as the model gave them
    losses: Tensor  # [scored], float64 on the CPU
    top1: Tensor  # [scored], the likeliest tokens, on the CPU


def predict(name: str, model: nn.Module, tokens: Tensor, first: int, index: int) -> Prediction:
    """Run a model on window number `index` and score its predictions from position `first` on."""
    device = next(chain(model.parameters(), model.buffers()), tokens).device
    # the prediction made at the last position has no target inside the window
    logits = model(input_ids=tokens[None].to(device), use_cache=False).logits[0, first:-1]
    losses = metrics.token_losses(logits, tokens[first + 1 :])
    if losses.isnan().any():
        raise QlabError(
            f"NaN in the logits of '{name}' at window {index} (tokens {index * len(tokens)} to "
            f"{(index + 1) * len(tokens) - 1}): look for NaN or infinite weights, or load it in float32"
        )
    # max finds the index twice as fast as argmax does on a CPU
    return Prediction(logits, losses, logits.max(-1).indices.cpu())


class Tally:
    """Running sums of one model's evaluation; their size does not depend on the length of the text."""

    def __init__(self, name: str, keep_losses: bool) -> None:
        self.name = name
        self.loss, self.log_ratio, self.kl, self.top1 = (WindowMean() for _ in range(4))
        self.kl_histogram = LogHistogram()
        self.tokens = 0
        self.kept: list[Tensor] | None = [] if keep_losses else None
        self.kept_kl: list[Tensor] = []

    def add(self, prediction: Prediction, base: Prediction | None) -> None:
        """Take in one window, and its distance to the reference's prediction `base`."""
        self.tokens += len(prediction.losses)
        self.loss.add(prediction.losses)
        if self.kept is not None:
            self.kept.append(prediction.losses.float())
        if base is not None:
            self._compare(prediction, base)

    def _compare(self, prediction: Prediction, base: Prediction) -> None:
        vocab, base_vocab = prediction.logits.shape[-1], base.logits.shape[-1]
        if vocab != base_vocab:
            raise QlabError(
                f"'{self.name}' has a vocabulary of {vocab} tokens and the reference one of {base_vocab}: "
                "KL divergence needs the same tokens; pass the model it was quantized from as the reference"
            )
        kl = token_kl(base.logits, prediction.logits)
        self.kl.add(kl)
        if self.kept is not None:
            self.kept_kl.append(kl.float())
        self.kl_histogram.add(kl)
        self.top1.add(prediction.top1 == base.top1)
        self.log_ratio.add(prediction.losses - base.losses)

    def result(self, window: int, protocol: str) -> Evaluation:
        """The evaluation so far."""
        perplexity, perplexity_se = exp_with_se(self.loss)
        return Evaluation(
            self.tokens,
            self.loss.windows,
            window,
            protocol,
            perplexity,
            perplexity_se,
            **self._distance(),
            token_losses=None if self.kept is None else torch.stack(self.kept),
            token_kl=torch.stack(self.kept_kl) if self.kept_kl else None,
        )

    def _distance(self) -> dict[str, float]:
        if not self.kl.windows:
            return {}
        ratio, ratio_se = exp_with_se(self.log_ratio)
        return {
            "kl_mean": self.kl.mean,
            "kl_se": self.kl.se,
            "kl_median": self.kl_histogram.quantile(0.5),
            "kl_p999": self.kl_histogram.quantile(0.999),
            "top1_agreement": self.top1.mean,
            "ppl_ratio": ratio,
            "ppl_ratio_se": ratio_se,
        }


@contextmanager
def _inference(models: Iterable[nn.Module]) -> Iterator[None]:
    """No gradients and no dropout inside; every module's mode as before outside."""
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _first_scored(protocol: str, window: int) -> int:
    """The first position of a window whose prediction the protocol scores."""
    if protocol not in PROTOCOLS:
        raise QlabError(f"unknown protocol '{protocol}': use one of {', '.join(PROTOCOLS)}")
    first = PROTOCOLS[protocol](window)
    if window - 1 - first < 1:
        raise QlabError(f"a window of {window} scores no token under protocol '{protocol}': use a larger one")
    return first


def _cut(ids: Tensor | Sequence[int], window: int) -> Tensor:
    """The ids as int64 [windows, window], a copy without the rest."""
    ids = torch.as_tensor(ids)
    n = ids.numel()
    if n != max(ids.shape, default=0) or (n and ids.is_floating_point()):
        raise QlabError(f"ids are {ids.dtype} {list(ids.shape)}: pass the integer ids of one text, [tokens]")
    if n < window:
        raise QlabError(
            f"the text has {n} tokens, fewer than one window of {window}: pass a longer text or a smaller window"
        )
    count = n // window
    return ids.reshape(-1)[: count * window].to("cpu", torch.int64, copy=True).view(count, window)


def _check_limits(name: str, model: nn.Module, windows: Tensor) -> None:
    """Refuse what the model's config, where it has one, says that it cannot take."""
    config = getattr(model, "config", None)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and windows.shape[1] > positions:
        raise QlabError(
            f"'{name}' takes {positions} positions, a window has {windows.shape[1]}: use window={positions}"
        )
    vocab, largest = getattr(config, "vocab_size", None), int(windows.max())
    if vocab is not None and not 0 <= int(windows.min()) <= largest < vocab:
        raise QlabError(
            f"'{name}' knows token ids 0 to {vocab - 1}, the text has {int(windows.min())} to {largest}: "
            "tokenize it with this model's tokenizer"
        )
