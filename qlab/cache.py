"""The user's cache: folders that appear whole or not at all, checked against their checksums at every load.

Hashing the reference model (269 MB) costs about half a second, so nothing is skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock
from safetensors import SafetensorError

from qlab.errors import QlabError

MANIFEST = "checksums.json"  # {file name: sha256}


def cache_dir() -> Path:
    """Where qlab keeps what it can rebuild: $QLAB_CACHE, or the platform's user cache folder."""
    return Path(os.environ.get("QLAB_CACHE") or platformdirs.user_cache_dir("qlab"))


def cached_folder(path: Path, build: Callable[[Path], None]) -> Path:
    """`path`, built by `build(folder)` if it does not exist yet, and verified.

    One process builds; others wait for it and use the result. Errors: QlabError for a folder that cannot be
    written and for a damaged cache.
    """
    if not path.exists():
        with _cannot_write(path), _lock(path):
            _remove_leftovers(path)
            if not path.exists():
                with atomic_folder(path) as folder:
                    build(folder)
    verify(path)
    return path


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path`, checksums included, only if the body succeeds."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        yield part
        _write_manifest(part)
        for file in [*part.iterdir(), part]:
            _flush(file)
        part.replace(path)
        _flush(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path) -> None:
    """Raise QlabError unless every file of the cached folder matches its recorded checksum."""
    for name, expected in _read_manifest(path).items():
        if not (path / name).is_file():
            raise _damaged(path, f"{name} is missing")
        if sha256(path / name) != expected:
            raise _damaged(path, f"{name} does not match its checksum")


def _read_manifest(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads((path / MANIFEST).read_text()))
    except (OSError, ValueError, TypeError):
        raise _damaged(path, f"{MANIFEST} cannot be read") from None


def _write_manifest(folder: Path) -> None:
    sums = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=1))


def _damaged(path: Path, problem: str) -> QlabError:
    return QlabError(f"the cache is damaged: {problem} in {path}; delete that folder and run again")


def _flush(path: Path) -> None:
    # A rename may reach the disk before the data it names: a power cut would then leave a complete-looking folder.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f"{path.name}.lock"))


def _remove_leftovers(path: Path) -> None:
    # The lock is ours, so whoever began these was killed.
    for leftover in path.parent.glob(f"{path.name}.*.part"):
        shutil.rmtree(leftover)


@contextmanager
def _cannot_write(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = "free some space there, make it writable, or set QLAB_CACHE to another folder"
        raise QlabError(f"cannot write the cache: {path}: {reason}; {remedy}") from error
