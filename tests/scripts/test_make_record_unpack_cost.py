"""The record of unpacking: whole, and one of its cells compiled and counted again."""

import pytest
from qlab.kernels import triton as gpu

from qlab.records import load_record

RECORD = load_record("unpack_cost")
CELLS = {(row["storage"], row["target"], row["sm"], row["bits"]): row for row in RECORD["rows"]}


def test_every_cell_is_there():
    for sm in (80, 90):
        for storage, target in (("planes", "fp16"), ("planes", "bf16"), ("stream", "fp16"), ("stream", "int8")):
            assert [bits for bits in range(1, 9) if (storage, target, sm, bits) in CELLS] == [*range(1, 9)]
        assert [bits for bits in range(1, 9) if ("planes", "int8", sm, bits) in CELLS] == [4, 8]


def test_a_stream_converts_every_code_and_planes_none():
    for (storage, target, _, _), row in CELLS.items():
        if target == "fp16":
            assert row["conversions"] == (1 if storage == "stream" else 0)
            assert row["floats"] == (0 if storage == "stream" else pytest.approx(0.5, abs=0.05))  # two at once
        assert row["instructions"] >= row["floats"] + row["conversions"]


@pytest.mark.skipif(not gpu.available, reason=gpu.missing)
def test_one_cell_again():
    from importlib.metadata import version

    from qlab.kernels.triton import launch, unpack_only

    if launch.INTERPRETED:
        pytest.skip("TRITON_INTERPRET was set when the kernels were imported: nothing can be compiled here")
    if version("triton") != RECORD["made"]["versions"]["triton"]:
        pytest.skip(f"counted with triton {RECORD['made']['versions']['triton']}: another compiler counts otherwise")
    found = unpack_only.per_weight("planes", 4, "fp16", 80)
    assert found == {name: CELLS["planes", "fp16", 80, 4][name] for name in found}
