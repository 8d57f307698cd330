"""Registries: names for methods and passes, from this package, from entry points, or from a user's own file."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from qlab.errors import QlabError

T = TypeVar("T", bound=type)


class Registry(Generic[T]):
    """Classes by name. `kind` ("method") words the errors; entry points of the group `qlab.<kind>s` are found too."""

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make a (dataclass) class known by `name`."""

        def add(cls: T) -> T:
            self._classes[name] = cls
            cls.name = name  # type: ignore[attr-defined]
            return cls

        return add

    def names(self) -> list[str]:
        """Every registered name, installed plugins included."""
        for entry in entry_points(group=f"qlab.{self.kind}s"):
            entry.load()
        return sorted(self._classes)

    def get(self, name: str, **options: Any) -> Any:
        """An instance of the class called `name`, built with `options`; errors name what exists."""
        if name not in self.names():
            near = difflib.get_close_matches(name, self._classes, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(self._classes) or 'none yet'}"
            raise QlabError(f"unknown {self.kind} {name!r}: {hint}")
        cls = self._classes[name]
        known = [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        for option in options.keys() - known:
            raise QlabError(f"{self.kind} {name!r} has no option {option!r}: it takes {', '.join(known) or 'none'}")
        return cls(**options)


def load_plugin(path: str | Path) -> None:
    """Run a user's Python file, whose decorators register its methods and passes."""
    path = Path(path)
    if not path.is_file():
        raise QlabError(f"plugin {path} does not exist: give the path of a Python file that registers a method")
    loader = SourceFileLoader(f"qlab_plugin_{path.stem}", str(path))
    module = ModuleType(loader.name)
    sys.modules[loader.name] = module  # dataclasses look their module up
    try:
        loader.exec_module(module)
    except Exception as error:
        raise QlabError(f"plugin {path} failed to load: {type(error).__name__}: {error}") from error
