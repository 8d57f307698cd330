"""Other tools' compiled functions, called where they are installed, to measure beside them; nothing depends on them."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any, cast

import numpy as np


class GGML:
    """llama.cpp's quantizers and products, from the shared libraries that llama-cpp-python brings along."""

    def __init__(self, folder: Path):
        self._base = ctypes.CDLL(str(_library(folder, "ggml-base")), mode=ctypes.RTLD_GLOBAL)
        self._folder = folder
        self._quantize = _function(
            self._base, "ggml_quantize_chunk", c_size_t, c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p
        )

    def quantize(self, W: np.ndarray, type_number: int, out: np.ndarray, importance: np.ndarray | None = None) -> None:
        """Encode W float32 [rows, row], C-contiguous, into out uint8 [rows, bytes of a row]; the GIL is free meanwhile.

        importance: weight of each column, float32 [row]. ValueError where `out` is not what the type takes.
        """
        weights = None if importance is None else importance.ctypes.data
        written = self._quantize(type_number, W.ctypes.data, out.ctypes.data, 0, *W.shape, weights)
        if written != out.size:
            raise ValueError(f"{written} bytes were written where {out.size} were expected")

    def products(self, threads: int) -> GGMLProducts:
        """What multiplies by this many threads, which wait for work as llama.cpp's do."""
        return GGMLProducts(self._base, ctypes.CDLL(str(_library(self._folder, "ggml-cpu"))), threads)


class _Memory(Structure):
    _fields_ = [("size", c_size_t), ("buffer", c_void_p), ("no_alloc", c_bool)]


class _ThreadPool(Structure):
    """`ggml_threadpool_params` of llama.cpp's ggml.h."""

    _fields_ = [
        ("cpumask", c_bool * 512),
        ("n_threads", c_int),
        ("prio", c_int),
        ("poll", c_uint32),
        ("strict_cpu", c_bool),
        ("paused", c_bool),
    ]


class GGMLProducts:
    """y = x · Wᵀ by ggml's CPU backend, W in the repacked form that llama.cpp loads it in where there is one."""

    def __init__(self, base: ctypes.CDLL, cpu: ctypes.CDLL, threads: int):
        pointer = c_void_p
        self._init = _function(base, "ggml_init", pointer, _Memory)
        self._tensor = _function(base, "ggml_new_tensor_2d", pointer, pointer, c_int, c_int64, c_int64)
        self._multiply = _function(base, "ggml_mul_mat", pointer, pointer, pointer, pointer)
        self._graph = _function(base, "ggml_new_graph", pointer, pointer)
        self._expand = _function(base, "ggml_build_forward_expand", None, pointer, pointer)
        self._compute = _function(base, "ggml_backend_graph_compute", c_int, pointer, pointer)
        self._size = _function(base, "ggml_backend_buft_get_alloc_size", c_size_t, pointer, pointer)
        self._allocate = _function(base, "ggml_backend_buft_alloc_buffer", pointer, pointer, c_size_t)
        self._address = _function(base, "ggml_backend_buffer_get_base", pointer, pointer)
        self._place = _function(base, "ggml_backend_tensor_alloc", c_int, pointer, pointer, pointer)
        self._set = _function(base, "ggml_backend_tensor_set", None, pointer, pointer, c_size_t, c_size_t)
        self._get = _function(base, "ggml_backend_tensor_get", None, pointer, pointer, c_size_t, c_size_t)
        self._supports = _function(base, "ggml_backend_dev_supports_op", c_bool, pointer, pointer)
        self._free = _function(base, "ggml_backend_buffer_free", None, pointer)
        self._release = _function(base, "ggml_free", None, pointer)
        name = _function(base, "ggml_backend_buft_name", c_char_p, pointer)
        registry = _function(cpu, "ggml_backend_cpu_reg", pointer)()
        self._device = _function(base, "ggml_backend_reg_dev_get", pointer, pointer, c_size_t)(registry, 0)
        self._backend = _function(cpu, "ggml_backend_cpu_init", pointer)()
        self._plain = _function(base, "ggml_backend_get_default_buffer_type", pointer, pointer)(self._backend)
        found = _function(base, "ggml_backend_reg_get_proc_address", pointer, pointer, c_char_p)(
            registry, b"ggml_backend_dev_get_extra_bufts"
        )
        kinds = ctypes.CFUNCTYPE(POINTER(pointer), pointer)(found)(self._device) if found else None
        self._kinds: list[int] = []
        for kind in iter(kinds) if kinds else ():  # ends with a null pointer
            if not kind:
                break
            if name(kind) != b"AMX":
                self._kinds.append(kind)
        _function(cpu, "ggml_backend_cpu_set_n_threads", None, pointer, c_int)(self._backend, threads)
        pool = _ThreadPool()
        _function(base, "ggml_threadpool_params_init", None, POINTER(_ThreadPool), c_int)(byref(pool), threads)
        made = _function(cpu, "ggml_threadpool_new", pointer, POINTER(_ThreadPool))(byref(pool))
        _function(cpu, "ggml_backend_cpu_set_threadpool", None, pointer, pointer)(self._backend, made)
        pause = _function(cpu, "ggml_threadpool_pause", None, pointer)
        self.pause: Callable[[], None] = lambda: pause(made)
        """Let the threads sleep until the next product: they spin, and would slow down whatever runs meanwhile."""

    def product(
        self, data: np.ndarray, type_number: int, columns: int, X: np.ndarray, repack: bool = True
    ) -> GGMLProduct:
        """The product of W, its stored bytes uint8 [rows, bytes of a row], with X float32 [tokens, columns].

        repack: False keeps W in the rows of its file.
        """
        return GGMLProduct(self, data, type_number, columns, X, repack)


class GGMLProduct:
    """One product, ready to be computed again and again. repacked: whether W lies in a form of its own."""

    def __init__(
        self, on: GGMLProducts, data: np.ndarray, type_number: int, columns: int, X: np.ndarray, repack: bool = True
    ):
        self._on, self.shape = on, (len(X), len(data))
        for kind in (*(on._kinds if repack else ()), on._plain):
            self._buffers: list[int] = []
            self._context = on._init(_Memory(1 << 20, None, True))
            W = on._tensor(self._context, type_number, columns, len(data))
            x = on._tensor(self._context, 0, columns, len(X))
            self._y = on._multiply(self._context, W, x)
            for tensor, where in ((W, kind), (x, on._plain), (self._y, on._plain)):
                self._put(tensor, where)
            if on._supports(on._device, self._y):
                break
            self.close()
        self.repacked = kind != on._plain
        on._set(W, data.ctypes.data, 0, data.nbytes)
        on._set(x, X.ctypes.data, 0, X.nbytes)
        self._graph = on._graph(self._context)
        on._expand(self._graph, self._y)

    def _put(self, tensor: int, kind: int) -> None:
        buffer = self._on._allocate(kind, self._on._size(kind, tensor))
        self._buffers.append(buffer)
        self._on._place(buffer, tensor, self._on._address(buffer))

    def run(self) -> None:
        """Compute it."""
        if self._on._compute(self._on._backend, self._graph):
            raise RuntimeError("ggml could not compute the product")

    def result(self) -> np.ndarray:
        """y float32 [tokens, rows] of the last run."""
        out = np.empty(self.shape, np.float32)
        self._on._get(self._y, out.ctypes.data, 0, out.nbytes)
        return out

    def close(self) -> None:
        """Give the memory back."""
        for buffer in self._buffers:
            self._on._free(buffer)
        self._on._release(self._context)


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return cast(Callable[..., Any], found)


def _library(folder: Path, name: str) -> Path:
    return sorted(folder.glob(f"lib{name}.*"))[0]


def ggml() -> GGML | None:
    """llama.cpp's functions, or None where llama-cpp-python is not installed."""
    spec = importlib.util.find_spec("llama_cpp")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if any((Path(folder) / "lib").glob("libggml-base.*")):
            return GGML(Path(folder) / "lib")
    return None
