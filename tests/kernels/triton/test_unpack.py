"""The assembly against its plain twin: the PTX is run here, instruction by instruction, on every word there is."""

import re

import numpy as np
import pytest
import torch
from qlab.kernels import triton as kernels
from qlab.kernels.triton import int8, shipped
from qlab.kernels.triton.unpack import PLANES, assembly, lookup_assembly, parts, places
from triton_cases import case

WORDS = np.arange(65536, dtype=np.uint32)


def as_float(register, kind):
    """Two 16-bit floats of a register as float64, low one first."""
    halves = np.stack([register & 0xFFFF, register >> 16], -1).astype(np.uint16)
    if kind == "f16x2":
        return halves.view(np.float16).astype(np.float64)
    return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def as_bits(values, kind):
    """The inverse; every value must be exact."""
    exact = values.astype(np.float16) if kind == "f16x2" else values.astype(np.float32)
    assert (exact.astype(np.float64) == values).all()
    if kind == "f16x2":
        halves = exact.view(np.uint16).astype(np.uint32)
    else:
        assert not (exact.view(np.uint32) & 0xFFFF).any()
        halves = exact.view(np.uint32) >> 16
    return halves[..., 0] | halves[..., 1] << 16


def lookup3(a, b, c, table):
    """lop3.b32: the table's bit for each triple of bits."""
    found = np.zeros_like(a)
    for i in range(8):
        if table >> i & 1:
            found |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return found


def permute(a, b, selector):
    """prmt.b32, without sign replication."""
    found = np.zeros_like(a)
    for i in range(4):
        chosen = (selector >> np.uint32(4 * i)) & 0xF
        assert (chosen < 8).all(), "a selector's top bit would repeat a sign"
        byte = np.where(chosen < 4, a >> (8 * (chosen % 4)), b >> (8 * (chosen % 4))) & 0xFF
        found |= byte.astype(np.uint32) << np.uint32(8 * i)
    return found


def execute(text, *inputs):
    """Run PTX on arrays of 32-bit registers; $0 is the result."""
    registers = {f"${i + 1}": words for i, words in enumerate(inputs)}

    def value(name):
        got = registers.get(name)
        return np.full_like(inputs[0], int(name, 0)) if got is None else got

    for line in re.split(r";\s*", text.strip("{} \n")):
        if not line.strip() or line.strip().startswith(".reg"):
            continue
        name, _, rest = line.strip().partition(" ")
        target, *given = [word.strip() for word in rest.split(",")]
        sources = [value(word) for word in given]
        kind = name.rpartition(".")[2]
        if name in ("mov.b32",):
            result = sources[0]
        elif name in ("shr.b32", "shl.b32"):
            result = sources[0] >> sources[1] if name == "shr.b32" else sources[0] << sources[1]
        elif name == "and.b32":
            result = sources[0] & sources[1]
        elif name == "lop3.b32":
            result = lookup3(*sources[:3], int(given[3], 0))
        elif name == "prmt.b32":
            result = permute(*sources)
        elif name == "add.rn.f32":
            result = (sources[0].view(np.float32) + sources[1].view(np.float32)).view(np.uint32)
        elif name == "cvt.rn.bf16x2.f32":  # the second source goes low
            pair = np.stack([sources[1].view(np.float32), sources[0].view(np.float32)], -1).astype(np.float64)
            result = as_bits(pair, "bf16x2")
        else:
            assert name.startswith("fma.rn."), name
            a, b, c = (as_float(source, kind) for source in sources)
            result = as_bits(a * b + c, kind)
        registers[target] = result.astype(np.uint32)
    return registers["$0"]


def pairs(count):
    """Registers of two words each: every word stands low once and high once; one array for each plane."""
    other = (WORDS * np.uint32(40503) + np.uint32(977)) & np.uint32(0xFFFF)
    return [np.roll(WORDS, 7919 * i) | np.roll(other, 3 * i) << np.uint32(16) for i in range(count)]


def codes_of(registers, bits, part):
    """What `code` finds, low word first."""
    found = np.zeros((len(WORDS), 2), np.int64)
    for (_, shift, width, bit), register in zip(places(bits, part), registers, strict=True):
        halves = np.stack([register & 0xFFFF, register >> 16], -1).astype(np.int64)
        found |= (halves >> shift & (1 << width) - 1) << bit
    return found


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("kind", ["fp16", "bf16"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_word_becomes_its_codes(bits, kind, symmetric):
    middle = 2 ** (bits - 1) if symmetric else 0
    given = pairs(len(PLANES[bits]))
    for part in range(parts(bits)):
        got = execute(assembly(bits, part, kind, middle), *given)
        wanted = codes_of(given, bits, part) - middle
        assert np.array_equal(as_float(got, "f16x2" if kind == "fp16" else "bf16x2"), wanted)


@pytest.mark.parametrize("part", range(4))
def test_every_word_finds_its_entries(part):
    (given,) = pairs(1)
    got = execute(lookup_assembly(part, shipped.NF4), given)
    wanted = np.array(shipped.NF4)[codes_of([given], 4, part)]
    assert np.array_equal(np.stack([got & 0xFFFF, got >> 16], -1), wanted)


@pytest.mark.parametrize("bits, half", [(8, 0), (4, 0), (4, 1)])
def test_bytes_become_signed(bits, half):
    shift, mask = (4 if (bits, half) == (4, 0) else 0), (0xF0 if bits == 4 else 0xFF)
    (given,) = pairs(1)
    got = execute(int8.BYTES_ASSEMBLY(shift, mask), given).view(np.int8)
    nibble = given.view(np.uint8).astype(int) if bits == 8 else given.view(np.uint8) >> 4 * half & 0xF
    wanted = nibble.astype(int) - 128 if bits == 8 else 16 * (nibble.astype(int) - 8)
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("bits", range(1, 9))
def test_columns_of_a_part_lie_side_by_side(bits):
    """Drawn by hand: code c of column k is found by `places` in the words that `pack_codes` made."""
    one = case(bits, 2, 512, 128).weights
    codes, H = kernels.unpack(one)[0], one.part
    for part in range(parts(bits)):
        found = torch.zeros(2, H, dtype=torch.int32)
        for tile, shift, width, bit in places(bits, part):
            found |= (one.codes[1, tile].to(torch.int32) >> shift & (1 << width) - 1) << bit
        start = one.block + part * H
        assert torch.equal(found, codes[:, start : start + H].to(torch.int32))
