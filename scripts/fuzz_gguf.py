"""Mutated GGUF files and importance matrices: each must be read, or end in a QlabError, soon and in little memory.

    python scripts/fuzz_gguf.py --files 100000 --seed 0

Seeds are the small files in tests/data/gguf_seeds. A file that breaks the rule is kept as fuzz-SEED-NUMBER.gguf.
"""

from __future__ import annotations

import argparse
import random
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from qlab.errors import QlabError
from qlab.files.gguf import open_gguf
from qlab.files.imatrix import read_imatrix
from qlab.from_gguf import model_from_gguf
from qlab.gguf_inspection import block, summary, tensor

SEEDS = Path(__file__).parents[1] / "tests/data/gguf_seeds"
SECONDS, MEGABYTES = 1.0, 200
_LENGTHS = [0, 1, 7, 31, 2**8, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to four of: flipped bits, hostile lengths, cuts, repeated and removed pieces."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not found:
            break
        at = rng.randrange(len(found))
        kind = rng.randrange(6)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        elif kind == 2:
            found[at : at + 8] = struct.pack("<Q", rng.choice(_LENGTHS))
        elif kind == 3:
            found[at : at + 4] = struct.pack("<I", rng.choice(_LENGTHS) % 2**32)
        elif kind == 4:
            del found[at:]
        else:
            piece = found[at : at + rng.randint(1, 64)]
            to = rng.randrange(len(found))
            found[to : to + rng.choice([0, len(piece)])] = piece
    return bytes(found)


def use(path: Path) -> None:
    """Everything a reader does with a file: header, keys, tensors, the first block of each, the model and its words."""
    if path.suffix == ".dat":
        read_imatrix(path)
        return
    file = open_gguf(path)
    summary(file)
    for name in file.tensors:
        tensor(file, name)
        try:
            block(file, name, 0)
        except QlabError as error:
            if "no fields to show" not in str(error):
                raise
    if file.metadata.get("general.type") == "imatrix":
        read_imatrix(path)
    elif "token_embd.weight" in file.tensors:
        _, tokenizer = model_from_gguf(path)
        tokenizer.decode(tokenizer("ab é a").input_ids)


def megabytes() -> float:
    """The most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(files: int, seed: int, keep: Path, progress: bool = False) -> dict[str, float]:
    """Read `files` mutated seeds. Returns how many were refused, the slowest (seconds of processor), the memory (MB).

    AssertionError for the first one that is neither read nor refused by a QlabError, or takes too long.
    """
    rng = random.Random(seed)
    seeds = sorted(SEEDS.iterdir())
    originals = [path.read_bytes() for path in seeds]
    for path in seeds:
        use(path)
    before, refused, slowest = megabytes(), 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in tqdm(range(files), disable=not progress, desc="fuzz", unit="file"):
            which = rng.randrange(len(seeds))
            path = Path(folder) / f"mutated{seeds[which].suffix}"
            data = mutated(originals[which], rng)
            path.write_bytes(data)
            start = time.process_time()
            try:
                use(path)
            except QlabError:
                refused += 1
            except BaseException as error:
                kept = keep / f"fuzz-{seed}-{number}{path.suffix}"
                kept.write_bytes(data)
                raise AssertionError(f"{kept}: {type(error).__name__}: {error}") from error
            slowest = max(slowest, time.process_time() - start)
            assert slowest < SECONDS, f"file {number} of seed {seed} took {slowest:.2f} s"
    return {"files": files, "refused": refused, "slowest_seconds": slowest, "megabytes": megabytes() - before}


def main() -> None:
    """Run, and tell what happened."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = fuzz(options.files, options.seed, Path.cwd(), progress=sys.stderr.isatty())
    assert found["megabytes"] < MEGABYTES, f"memory grew by {found['megabytes']:.0f} MB"
    print(f"{found['files']:,} mutated files: {found['refused']:,} refused, the others read; the slowest took "
          f"{1000 * found['slowest_seconds']:.0f} ms, memory grew by {found['megabytes']:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
