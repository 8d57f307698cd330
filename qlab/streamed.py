"""Quantizing from folder to folder: one block in memory at a time, each finished one saved, a killed run continued."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qlab.blocks import decoder_blocks
from qlab.blockwise import Blockwise, needs_of, quantize_layer
from qlab.calibration import Calibration
from qlab.display import size as shown
from qlab.errors import QlabError
from qlab.files.lazy import LazyModel
from qlab.files.save import head_name, provenance_of, side_files, stored_tensors, with_provenance
from qlab.files.shards import MAX_SHARD_BYTES, cannot_write, merge_shards
from qlab.layouts import Layout, get_layout
from qlab.nn import QLinear, packed_bytes
from qlab.progress import track
from qlab.qtensor import check_finite
from qlab.recipes import LayerPlan, Recipe
from qlab.report import LayerReport, RunReport

UNREACHED = "qlab quantizes nn.Linear, and would leave most of a model with fused experts or Conv1D in 16 bits"
OUTSIDE = "outside"  # the part that holds what lies in no block


class Conversion:
    """A float folder, a recipe and a layout: what would be done (`problems`, `memory`), and `run`, which does it.

    Peak memory holds the embeddings, one block in float32, its statistics and the calibration tokens' activations,
    however deep the model is. true_sequential: see `Blockwise`. Errors (QlabError) before any work: see `problems`.
    """

    def __init__(
        self,
        source: LazyModel,
        recipe: Recipe,
        layout: str,
        calibration: Calibration | None = None,
        *,
        true_sequential: bool = False,
    ):
        self.source, self.recipe, self.calibration = source, recipe, calibration
        self.layout: Layout = get_layout(layout)
        self.true_sequential = true_sequential
        self.resolution = recipe.resolve(source.model)
        self.path, blocks = decoder_blocks(source.model)
        self.names = [f"{self.path}.{i}" for i in range(len(blocks))]

    @cached_property
    def quantized(self) -> list[LayerPlan]:
        """The linears that the recipe quantizes."""
        return [plan for plan in self.resolution.layers if plan.rule.skip is None]

    @cached_property
    def problems(self) -> dict[str, str]:
        """Why a layer cannot go this way, by name: all of them, found from shapes alone."""
        found = {}
        linears = {n: m for n, m in self.source.model.named_modules() if isinstance(m, nn.Linear)}
        owners: dict[int, str] = {}
        for plan in self.resolution.layers:
            if plan.name not in linears:
                found[plan.name] = f"{plan.name}: {plan.rule.skip}: {UNREACHED}"
            elif plan.rule.weight is not None:
                first = owners.setdefault(id(linears[plan.name].weight), plan.name)
                try:
                    if first != plan.name:
                        raise QlabError(f"{plan.name} shares its weight with {first}: untie them, or skip both")
                    self._check(plan)
                except QlabError as error:
                    found[plan.name] = str(error)
        return found

    def _check(self, plan: LayerPlan) -> None:
        spec = plan.rule.weight
        assert spec is not None
        scattered = plan.rule.options.get("act_order") == "desc" and spec.group_in(plan.shape[1]) < plan.shape[1]
        self.layout.check(plan.shape, spec, plan.name, scattered)
        if plan.rule.passes and self.source.dtype != torch.float32:
            raise QlabError(f"{plan.name} goes through passes before it is quantized: they take float32, not "
                            f"{str(self.source.dtype).removeprefix('torch.')}")  # fmt: skip
        if plan.rule.input is not None:
            raise QlabError(f"{plan.name} quantizes its input ({plan.rule.input}): {self.layout.name} stores weights "
                            "only; leave `input` out of the recipe")  # fmt: skip
        needs = needs_of(plan, self.calibration)
        if needs and not plan.name.startswith(f"{self.path}."):
            raise QlabError(
                f"{plan.name} lies outside the blocks {self.path}.*: give it a data-free method, or skip it"
            )

    @property
    def kinds(self) -> dict[str, list[str]]:
        """The problems without their repetitions: what is said of a first layer, and all the layers it is true of."""
        kinds: dict[str, list[str]] = {}
        for name, problem in self.problems.items():
            kinds.setdefault(problem.replace(name, "·"), []).append(name)
        return {self.problems[names[0]]: names for names in kinds.values()}

    def check(self) -> None:
        """QlabError with every kind of problem, each named by its first layer; or for a folder that is not whole."""
        if self.kinds:
            more = {problem: f" (and {len(names) - 1} more layers)" for problem, names in self.kinds.items()}
            raise QlabError("; ".join(p + (more[p] if len(names) > 1 else "") for p, names in self.kinds.items()))
        self.source.check()

    @property
    def title(self) -> str:
        """What the table is about."""
        return f"Plan: {self.recipe.name} as {self.layout.name}"

    def facts(self) -> dict[str, Any]:
        """The totals, what the run will hold in memory, and the disk it needs."""
        weights = {id(p): p.numel() for p in self.source.model.parameters()}
        inside = sum(plan.shape[0] * plan.shape[1] for plan in self.quantized)
        bits = sum(plan.bits_per_weight * plan.shape[0] * plan.shape[1] for plan in self.quantized)
        size = round(bits / 8 + 2 * (sum(weights.values()) - inside))
        source = {"calibration": self.calibration.title} if self.calibration else {}
        return source | self.resolution.facts() | {
            "problems": len(self.problems),
            "size_bytes": size,
            "disk_bytes": 2 * size,  # the finished blocks, then all of them as one folder
            "memory_bytes": sum(self.memory().values()),
            "of which": ", ".join(f"{what} {shown(held)}" for what, held in self.memory().items()),
        }  # fmt: skip

    def table(self) -> list[dict[str, Any]]:
        """One row per layer."""
        return self.resolution.table()

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the problems by layer, the memory by part, the layers under `rows`."""
        return self.facts() | {"problems": self.problems, "memory": self.memory(), "rows": self.table()}

    def memory(self) -> dict[str, int]:
        """Bytes that a run will hold at its peak, by what they are for."""
        inside = f"{self.path}."
        outside = {id(p): p for n, p in self.source.model.named_parameters() if not n.startswith(inside)}
        block = max(sum(p.numel() for p in b.parameters()) for b in self._modules())
        widths = {plan.shape[1] for plan in self.quantized if needs_of(plan, self.calibration)}
        needs = frozenset[str]().union(*(needs_of(plan, self.calibration) for plan in self.quantized))
        paths = 2 if needs & {"cross", "float_inputs"} else 1
        hidden = (
            self.calibration.ids.numel() * self.source.model.config.hidden_size if widths and self.calibration else 0
        )
        largest = max(plan.shape[0] * plan.shape[1] for plan in self.quantized)
        return {
            "embeddings and head": 4 * sum(p.numel() for p in outside.values()),
            "one block": 4 * block,
            "activations": 4 * hidden * (paths + 1),
            "statistics": 8 * sum(w * w for w in widths) * (2 if "cross" in needs else 1),
            "workspace": 4 * 4 * largest + 3 * 8 * max((w * w for w in widths), default=0),
        }

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        files = sorted({*self.source.folder.glob("*.safetensors"), self.source.folder / "config.json"})
        c = self.calibration
        return {
            "model": {f.name: [f.stat().st_size, f.stat().st_mtime_ns] for f in files},
            "recipe": self.recipe.to_yaml(),
            "format": self.layout.name,
            "calibration": c and [c.title, hashlib.sha256(c.ids.contiguous().numpy().tobytes()).hexdigest()],
            "true-sequential order": self.true_sequential,
            "device": str(self.source.device),
            "dtype": str(self.source.dtype),
            "versions": {name: version(name) for name in ("qlab", "torch", "transformers")},
        }

    @torch.no_grad()
    def run(
        self,
        out: str | Path,
        *,
        restart: bool = False,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        progress: bool = True,
    ) -> RunReport:
        """Write the quantized model to the new folder `out`.

        Finished blocks wait in `.{out}.partial` beside it: started again after whatever stopped it, the same run goes
        on behind the last of them, and its files are those of an uninterrupted one, byte for byte. restart: discard
        them. QlabError for problems, for a folder that exists, for the remains of another run, for a disk that refuses.
        """
        self.check()
        out, start = Path(out), time.perf_counter()
        work = out.parent / f".{out.name}.partial"
        with _locked(work, out):
            _begin(work, out, self.fingerprint(), restart)
            parts = _Parts(work)
            if not out.exists() or not any(out.iterdir()):
                self._blocks(parts, progress)
                self._finish(parts, out, max_shard_bytes)
            rows = {row.layer: row for part in self._parts for row in parts.rows(part)}
            size = sum(parts.size(part) for part in self._parts)
            shutil.rmtree(work)
        ordered = tuple(rows[plan.name] for plan in self.resolution.layers)
        source = self.calibration.title if self.calibration else None
        return RunReport(self.recipe, ordered, size, time.perf_counter() - start, source)

    @property
    def _parts(self) -> list[str]:
        return [OUTSIDE, *(f"{i:05d}" for i in range(len(self.names)))]

    def _blocks(self, parts: _Parts, progress: bool) -> None:
        """Every part in turn: made, or read where an earlier run has made it."""
        model, inside = self.source.model, f"{self.path}."
        self.source.fetch(without=inside)
        outside = [plan for plan in self.resolution.layers if not plan.name.startswith(inside)]
        if OUTSIDE not in parts:
            rows = {plan.name: quantize_layer(model, plan) for plan in self._finite(outside)}
            self._save(parts, OUTSIDE, rows, model, without=inside)
        driver = Blockwise(model, self.resolution, self.calibration, self.true_sequential)
        label = f"quantize {self.recipe.name}"
        for i, name in enumerate(track(self.names, total=len(self.names), label=label, enabled=progress)):
            part = f"{i:05d}"
            plans = [plan for plan in self.resolution.layers if plan.name.startswith(f"{name}.")]
            self.source.fetch(f"{name}.")
            if part in parts:
                if driver.calibrated:
                    driver.stream.advance_float(i)
            else:
                self._finite(plans)
                rows = driver.quantize(i) if driver.calibrated else {p.name: quantize_layer(model, p) for p in plans}
                self._save(parts, part, rows, model, under=f"{name}.")
            if driver.calibrated:
                self._install(parts.read(part), plans, f"{name}.")  # what the next block sees is what the file holds
                driver.advance(i)
                driver.stream.blocks[i] = nn.Identity()
            self.source.drop(name)

    def _finite(self, plans: list[LayerPlan]) -> list[LayerPlan]:
        for plan in plans:
            if plan.rule.skip is None:
                check_finite(cast(nn.Linear, self.source.model.get_submodule(plan.name)).weight, plan.name)
        return plans

    def _save(self, parts: _Parts, part: str, rows: Mapping[str, LayerReport], model: nn.Module, **which: str) -> None:
        inside = model.get_submodule(which["under"].rstrip(".")) if "under" in which else None
        size = packed_bytes(inside) if inside is not None else packed_bytes(model) - self._unread()
        tensors = {name: tensor.cpu() for name, tensor in stored_tensors(model, self.layout, **which)}
        parts.write(part, tensors, list(rows.values()), size)

    def _unread(self) -> int:
        """Bytes that `packed_bytes` counts for blocks that are not in memory yet."""
        return 2 * sum(p.numel() for block in self._modules() for p in block.parameters())

    def _modules(self) -> list[nn.Module]:
        return [self.source.model.get_submodule(name) for name in self.names]

    def _install(self, stored: dict[str, Tensor], plans: list[LayerPlan], under: str) -> None:
        """Put what a part holds in place of the float block."""
        model = self.source.model
        for plan in plans:
            if plan.rule.weight is None:
                continue
            prefix = f"{plan.name}."
            tensors = {k.removeprefix(prefix): stored.pop(k) for k in list(stored) if k.startswith(prefix)}
            bias = tensors.pop("bias", None)
            Q = self.layout.unpack(tensors, plan.shape, plan.rule.weight)
            bias = None if bias is None else bias.to(self.source.dtype)
            model.set_submodule(plan.name, QLinear(Q, bias).to(self.source.device))
        places = model.state_dict(keep_vars=True)
        for name, tensor in stored.items():
            places[name].data = tensor.to(places[name].dtype).to(self.source.device)

    def _finish(self, parts: _Parts, out: Path, max_shard_bytes: int) -> None:
        """All parts as one folder, complete before it gets its name."""
        specs = {plan.name: plan.rule.weight for plan in self.quantized if plan.rule.weight is not None}
        skipped = [plan.name for plan in self.resolution.layers if plan.rule.skip is not None]
        orders = {str(p.rule.options.get("act_order", "static")) for p in self.quantized if p.rule.method == "gptq"}
        order = next((o for o in ("desc", "static") if o in orders), "none")
        c = self.calibration
        drawn = (c.source, c.ids.numel(), c.seed) if c else ()
        made = provenance_of(self.recipe.to_yaml(), *drawn)
        config = with_provenance(self.layout.config(specs, skipped, order), made)
        head = head_name(self.source.model)
        with parts.kept(out):
            folder = parts.folder / "model"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            files = [parts.file(part) for part in self._parts]
            merge_shards(files, folder, max_shard_bytes, json.dumps(made))
            side_files(self.source.folder, None, None, folder, config, untied=head in specs)
            folder.rename(out)


class _Parts:
    """The finished parts of a run: tensors, and beside them what the report says of them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __contains__(self, part: str) -> bool:
        return self.file(part).exists()

    def file(self, part: str) -> Path:
        """The tensors of a part."""
        return self.folder / f"{part}.safetensors"

    def read(self, part: str) -> dict[str, Tensor]:
        """The tensors of a finished part."""
        return load_file(self.file(part))

    def rows(self, part: str) -> list[LayerReport]:
        """What the report says of the part's layers."""
        return [LayerReport(**row) for row in self._notes(part)["rows"]]

    def size(self, part: str) -> int:
        """Packed bytes of the part."""
        return int(self._notes(part)["size_bytes"])

    def _notes(self, part: str) -> dict[str, Any]:
        notes: dict[str, Any] = json.loads((self.folder / f"{part}.json").read_text())
        return notes

    def write(self, part: str, tensors: dict[str, Tensor], rows: list[LayerReport], size: int) -> None:
        """Keep a part: the tensors come last and appear whole, so that their file says that the part is finished."""
        with self.kept(self.folder):
            notes = {"size_bytes": size, "rows": [asdict(row) for row in rows]}
            (self.folder / f"{part}.json").write_text(json.dumps(notes))
            unfinished = self.folder / f"{part}.unfinished"
            save_file(tensors, unfinished)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(self.file(part))

    @contextmanager
    def kept(self, folder: Path) -> Iterator[None]:
        """Say, where a disk refuses, that nothing finished is lost."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = error if isinstance(error, OSError) else OSError(str(error))
            raise QlabError(f"{cannot_write(folder, reason)}; finished blocks are kept in {self.folder}: "
                            "the same command goes on from there") from error  # fmt: skip


@contextmanager
def _locked(work: Path, out: Path) -> Iterator[None]:
    """One run at a time for one output folder."""
    lock = out.parent / f"{work.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            yield
        lock.unlink(missing_ok=True)
    except Timeout as error:
        raise QlabError(f"another run is writing {out}: wait for it, or choose another output folder") from error
    except OSError as error:
        raise cannot_write(out, error) from error


def _begin(work: Path, out: Path, fingerprint: Mapping[str, Any], restart: bool) -> None:
    """A work folder that belongs to this run: new, or left by the same run before."""
    if restart:
        shutil.rmtree(work, ignore_errors=True)
    told = work / "run.json"
    before = json.loads(told.read_text()) if told.is_file() else None
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and before != json.loads(json.dumps(fingerprint)):
        raise QlabError(f"{out} exists and is not empty: choose another output folder, or remove it")
    if before is None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        unfinished = work / "run.unfinished"
        unfinished.write_text(json.dumps(fingerprint, indent=2))
        unfinished.replace(told)
        return
    now = json.loads(json.dumps(fingerprint))
    if other := [key for key in now if before.get(key) != now[key]]:
        raise QlabError(f"{work} holds an unfinished run with another {', '.join(other)}: --restart discards it, "
                        "or choose another output folder")  # fmt: skip
