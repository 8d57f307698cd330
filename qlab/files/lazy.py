"""A model larger than memory: a skeleton whose parts are read from their safetensors files when they are needed."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qlab.errors import QlabError
from qlab.files.stored import (
    AGAIN,
    StoredTensors,
    fill,
    ignored,
    persistent_buffers,
    return_freed_memory,
    skeleton,
)


class LazyModel:
    """The model of a float folder, its parameters on the meta device until `fetch` reads those below one module.

    dtype: what it computes in; None: what its tensors are stored in. Errors: QlabError where that is not one dtype.
    """

    def __init__(self, folder: Path, config: Any, dtype: torch.dtype | None = torch.float32, device: str = "cpu"):
        return_freed_memory()
        self._stored = StoredTensors(folder)
        self.folder, self.dtype, self.device = folder, dtype or self._stored.dtype, device
        self.model = skeleton(folder, config, self.dtype).eval().requires_grad_(False)

    def fetch(self, under: str = "", without: str | None = None) -> None:
        """Read the parameters and buffers whose names begin with `under`, and not with `without`."""

        def wanted(name: str) -> bool:
            return name.startswith(under) and (without is None or not name.startswith(without))

        fill(self.model, self._stored, self.dtype, wanted)
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            if not tensor.is_meta:
                tensor.data = tensor.data.to(self.device)

    def drop(self, module: str) -> None:
        """Forget a module: nothing stays in its place."""
        self.model.set_submodule(module, nn.Identity())
        gc.collect()  # transformers' blocks refer to themselves: until then they stay

    def check(self) -> None:
        """QlabError, before a number is read, for tensors that are missing, of another shape, or without a place."""
        stored = self._stored
        ties: dict[int, list[str]] = {}
        places = dict(self.model.named_parameters(remove_duplicate=False)) | dict(persistent_buffers(self.model))
        for name, place in places.items():
            ties.setdefault(id(place), []).append(name)
            if name in stored and stored.shape_of(name) != tuple(place.shape):
                shapes = f"{name} is {stored.shape_of(name)} where its config.json says {tuple(place.shape)}"
                raise QlabError(f"checkpoint and config disagree: {self.folder}: {shapes}; copy both from one model")
        missing = [names[0] for names in ties.values() if not any(name in stored for name in names)]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise QlabError(f"incomplete checkpoint: {self.folder} lacks {missing[0]}{more}; {AGAIN}")
        extra = sorted(n for n in stored.file_of if n not in places and not ignored(n, self.model))
        if extra:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            file, kind = stored.file_of[extra[0]], type(self.model).__name__
            raise QlabError(f"{file} holds {extra[0]}{more}, for which {kind} has no place; {AGAIN}")
