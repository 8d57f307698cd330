"""Types without a grid of ours: floats as they are, and the codebook families, which the `gguf` package decodes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from qlab.errors import QlabError
from qlab.ggml import BlockType, register_block


class FloatType(BlockType):
    """Numbers in a float format; a block is one number."""

    weights = 1
    dtype: ClassVar[torch.dtype]

    def decode(self, data: Tensor) -> Tensor:
        """The numbers in float32."""
        return self.blocks(data).view(self.dtype).float().reshape(*data.shape[:-1], -1)

    def encode_plain(self, W: Tensor) -> Tensor:
        """The bytes of W; QlabError for a weight that does not fit."""
        stored = W.to(self.dtype)
        if not stored.isfinite().all():
            raise QlabError(f"a weight of {W.abs().max():.3g} does not fit {self.name}: choose BF16 or F32")
        return stored.contiguous().view(torch.uint8)


@register_block("F32")
class F32(FloatType):
    """Single precision."""

    nbytes, dtype = 4, torch.float32


@register_block("F16")
class F16(FloatType):
    """Half precision."""

    nbytes, dtype = 2, torch.float16


@register_block("BF16")
class BF16(FloatType):
    """The upper half of single precision."""

    nbytes, dtype = 2, torch.bfloat16


class _Codebook(BlockType):
    """Eight or four weights at once from a lattice codebook: decoded only, by the `gguf` package and its tables."""

    def decode(self, data: Tensor) -> Tensor:
        with np.errstate(all="ignore"):  # a scale may be NaN or infinite: so then are its weights
            found = dequantize(self.blocks(data).numpy(), GGMLQuantizationType[self.name])
        return torch.from_numpy(found).reshape(*data.shape[:-1], -1)


for _name in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"):
    _weights, _nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[_name]]
    register_block(_name)(type(_name, (_Codebook,), {"weights": _weights, "nbytes": _nbytes}))
