"""What a model needs in memory, from its config alone: weights, KV cache, runtime."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import nn

from qlab.errors import QlabError
from qlab.spec import QuantSpec

FLOAT_BITS = 16
"""Bits of a weight that is not quantized: checkpoints are bf16 or fp16."""

RUNTIME_BYTES = 750_000_000
"""Assumed for the library, its context and the activations: practice says 0.5 to 1 GB."""


def weights_bytes(params: float, bits_per_weight: float) -> float:
    """Bytes of `params` numbers at `bits_per_weight`, which counts scales and zeros too."""
    return params * bits_per_weight / 8


def kv_bytes(layers: int, kv_heads: int, head_dim: int, tokens: int, batch: int = 1, bits: float = 16) -> float:
    """Bytes of the KV cache: one key and one value of `head_dim` numbers per layer, KV head and token."""
    return weights_bytes(2 * layers * kv_heads * head_dim * tokens * batch, bits)


class Formats(Protocol):
    """What stores each linear in a format of its own: a `Recipe`."""

    @property
    def name(self) -> str: ...  # noqa: D102
    def resolve(self, model: nn.Module) -> Any: ...  # noqa: D102


@dataclass(frozen=True)
class MemoryEstimate:
    """Where the bytes go when a model of this shape answers at this context length. Bytes are decimal."""

    name: str
    spec: str
    context: int
    batch: int
    kv_bits: float
    linear_params: int
    embedding_params: int
    other_params: int
    linear_bytes: float
    embedding_bytes: float
    other_bytes: float
    kv_bytes_per_token: float
    kv_bytes: float
    runtime_bytes: float
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """One line that names the model, the format and the context."""
        return f"{self.name} as {self.spec}, {self.context:,} tokens × {self.batch}"

    @property
    def params(self) -> int:
        """All parameters, each counted once."""
        return self.linear_params + self.embedding_params + self.other_params

    @property
    def weights_bytes(self) -> float:
        """Bytes of all weights, metadata included."""
        return self.linear_bytes + self.embedding_bytes + self.other_bytes

    @property
    def total_bytes(self) -> float:
        """Weights, KV cache and runtime."""
        return self.weights_bytes + self.kv_bytes + self.runtime_bytes

    @property
    def bits_per_weight(self) -> float:
        """Mean over all parameters, embeddings included: what the file size shows."""
        return 8 * self.weights_bytes / self.params

    def facts(self) -> dict[str, Any]:
        """The totals and the assumptions, for display."""
        totals = {"params": self.params, "bits_per_parameter": self.bits_per_weight, "total_bytes": self.total_bytes}
        return totals | {"notes": " ".join(self.notes)}

    def table(self) -> list[dict[str, Any]]:
        """One row per part: parameters, bits each, bytes."""
        return [
            _row("linear layers", self.linear_params, self.linear_bytes),
            _row("embeddings and head", self.embedding_params, self.embedding_bytes),
            _row("norms and the rest", self.other_params, self.other_bytes),
            {"part": f"KV cache, {self.context:,} tokens", "bits": self.kv_bits, "size_bytes": self.kv_bytes},
            {"part": "runtime (assumed)", "size_bytes": self.runtime_bytes},
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, totals included, for `--json`."""
        names = ("params", "weights_bytes", "total_bytes", "bits_per_weight")
        derived = {name: getattr(self, name) for name in names}
        return asdict(self) | {"notes": list(self.notes)} | derived


def estimate(
    config: Any,
    spec: QuantSpec | str | Formats | None = None,
    *,
    context: int = 4096,
    batch: int = 1,
    kv_bits: float = 16,
) -> MemoryEstimate:
    """Memory of a causal language model, exact in its parameters, from a transformers config alone.

    `spec` quantizes every linear layer and fused expert; embeddings and the head stay 16-bit (None: all do).
    A recipe decides layer by layer and leaves fused experts at 16 bits, as `quantize_` does.
    `kv_bits` are those of one cached number. Of a multimodal config the text decoder is counted. QlabError
    for a config that is no causal language model's, and for a spec that does not fit its shapes.
    """
    if min(context, batch, kv_bits) <= 0:
        raise QlabError(f"context {context}, batch {batch}, kv_bits {kv_bits}: each must be positive")
    text = config.get_text_config(decoder=True)
    quantizer = QuantSpec.parse(spec) if isinstance(spec, str) else spec
    model = _skeleton(text)
    embeddings, linears, others = _parts(model)
    if quantizer and not linears:
        raise QlabError(f"{text.model_type} has no linear layer to quantize; estimate it without a spec")
    bits = _stored_bits(model, linears, quantizer)
    per_token, cache = _cache_bytes(text, context, kv_bits)
    return MemoryEstimate(
        name=getattr(config, "_name_or_path", "") or text.model_type,
        spec="16-bit" if quantizer is None else str(getattr(quantizer, "name", quantizer)),
        context=context,
        batch=batch,
        kv_bits=kv_bits,
        linear_params=_count(linears),
        embedding_params=_count(embeddings),
        other_params=_count(others),
        linear_bytes=_size(linears, bits),
        embedding_bytes=_size(embeddings, bits) + _size(_shared_with_a_quantized_head(model, bits), {}),
        other_bytes=_size(others, bits),
        kv_bytes_per_token=per_token,
        kv_bytes=cache * batch,
        runtime_bytes=RUNTIME_BYTES,
        notes=tuple(_notes(config, text, linears)),
    )


def _row(part: str, params: int, size: float) -> dict[str, Any]:
    return {"part": part, "params": params, "bits": 8 * size / params if params else None, "size_bytes": size}


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _skeleton(config: Any) -> nn.Module:
    """The model on the meta device: every shape, no memory."""
    from transformers import AutoModelForCausalLM  # half a second that the arithmetic above does not need

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise QlabError(
            f"model_type {config.model_type!r} is no causal language model; give a decoder's config"
        ) from error
    except Exception as error:  # a config's numbers reach code of every architecture, which fails in its own way
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise QlabError(f"transformers cannot build {config.model_type!r} from this config: {what}") from error


def _parts(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Embeddings with the head, quantizable matrices, and the rest; shared parameters appear once."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding) or m is head]
    kept = {id(p) for p in tables}
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    matrices |= {id(p) for name, p in model.named_parameters() if p.ndim == 3 and "experts" in name}
    embeddings = [p for p in model.parameters() if id(p) in kept]
    body = [p for p in model.parameters() if id(p) not in kept]
    return embeddings, [p for p in body if id(p) in matrices], [p for p in body if id(p) not in matrices]


def _stored_bits(model: nn.Module, linears: list[nn.Parameter], spec: QuantSpec | Formats | None) -> dict[int, float]:
    """Bits per weight by the id of the parameter; what is not there has 16."""
    if spec is None:
        return {}
    if isinstance(spec, QuantSpec):
        return {id(W): _bits(W, spec) for W in linears}
    named = dict(model.named_parameters(remove_duplicate=False))
    by_name = named | {name.removesuffix(".weight"): W for name, W in named.items()}  # plans name modules
    return {id(by_name[plan.name]): plan.bits_per_weight for plan in spec.resolve(model).layers}


def _size(parameters: list[nn.Parameter], bits: dict[int, float]) -> float:
    return sum(weights_bytes(W.numel(), bits.get(id(W), FLOAT_BITS)) for W in parameters)


def _shared_with_a_quantized_head(model: nn.Module, bits: dict[int, float]) -> list[nn.Parameter]:
    """Tied embeddings whose head is quantized: the table itself stays in 16 bits beside it."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return [W for W in model.parameters() if id(W) in tables and bits.get(id(W), FLOAT_BITS) != FLOAT_BITS]


def _bits(W: nn.Parameter, spec: QuantSpec) -> float:
    """Bits per weight of one matrix [out, in] or stack of experts [experts, out, in]."""
    shape = (W.shape[-2], W.shape[-1])
    spec.check(shape, f"linear layer {shape}")
    return spec.bits_per_weight(shape)


def _cache_bytes(config: Any, context: int, kv_bits: float) -> tuple[float, float]:
    """Bytes one more token adds before any window is full, and bytes at `context`; batch 1."""
    widths = _cache_widths(config)
    grown = sum(width for width, kept in zip(widths, _cached_tokens(config, context), strict=True) if kept)
    held = sum(width * kept for width, kept in zip(widths, _cached_tokens(config, context), strict=True))
    return weights_bytes(grown, kv_bits), weights_bytes(held, kv_bits)


def _cache_widths(config: Any) -> list[int]:
    """Numbers that each layer caches for a token: keys and values, or MLA's latent with its rotary key."""
    if latent := getattr(config, "kv_lora_rank", None):
        return [latent + config.qk_rope_head_dim] * config.num_hidden_layers
    return [2 * heads * size for heads, size in map(_kv_heads, config.per_layer_config)]


def _kv_heads(layer: Any) -> tuple[int, int]:
    """KV heads of a layer and their size, with the defaults of configs that leave them out."""
    heads = getattr(layer, "num_attention_heads", None)
    if not heads:
        raise QlabError(f"{layer.model_type} has no attention heads and so no KV cache: give a transformer's config")
    size = getattr(layer, "head_dim", None) or layer.hidden_size // heads
    return getattr(layer, "num_key_value_heads", None) or heads, size


def _cached_tokens(config: Any, context: int) -> list[int]:
    """Tokens each layer keeps: all, at most its window, none where attention is linear or shares a cache."""
    layers = config.num_hidden_layers
    window = getattr(config, "sliding_window", None) or context
    # configs without layer_types apply their window, if they use one, to every layer
    default = "sliding_attention" if getattr(config, "use_sliding_window", True) else "full_attention"
    kept = {"full_attention": context, "sliding_attention": min(context, window), "linear_attention": 0}
    kinds = getattr(config, "layer_types", None) or [default] * layers
    if unknown := set(kinds) - set(kept):
        kind = min(unknown)
        raise QlabError(f"{config.model_type} has layers of type {kind!r}: known are {', '.join(kept)}")
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    return [kept[kind] if i < layers - shared else 0 for i, kind in enumerate(kinds)]


def _notes(config: Any, text: Any, linears: list[nn.Parameter]) -> Iterator[str]:
    """The assumptions, a sentence each."""
    yield f"Runtime of {RUNTIME_BYTES / 1e9:.2f} GB is an assumption."
    if text is not config:
        yield "Only the text decoder is counted."
    if getattr(text, "kv_lora_rank", None):
        yield "The cache holds the compressed latent, as serving engines keep it."
    if any(W.ndim == 3 for W in linears):
        yield "Fused experts are counted as quantized linears."
    if "linear_attention" in (getattr(text, "layer_types", None) or []):
        yield "The constant state of linear attention is left out."
    if "sliding_attention" in (getattr(text, "layer_types", None) or []):
        yield f"Sliding layers keep {text.sliding_window:,} tokens."
