"""The one progress bar: a widget in a notebook, a line on stderr in a terminal, silent on request."""

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def track(iterable: Iterable[T], total: int, label: str, *, enabled: bool = True) -> Iterator[T]:
    """Yield from `iterable` (of `total` items) under a bar named `label`.

    QLAB_PROGRESS=0 in the environment turns every bar off; `enabled=False` turns off this one.
    """
    silent = not enabled or os.environ.get("QLAB_PROGRESS") == "0"
    yield from tqdm(iterable, total=total, desc=label, disable=silent)
