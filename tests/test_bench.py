"""The benchmark: the shape of its report, and that its clocks and inputs are what it says."""

import json

import pytest

from qlab import bench
from qlab.errors import QlabError

SMALL = (32, 256)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "SHAPE", SMALL)
    monkeypatch.setattr(bench, "ROTATE", 2**16)
    monkeypatch.setattr(bench, "CEILING", 2**16)


def test_ceiling_first_then_ratios():
    rows = bench.run(rounds=3, shape=SMALL)
    ceiling = [row for row in rows if row["ratio"] is None]
    assert rows[: len(ceiling)] == ceiling
    assert [row["threads"] for row in ceiling] == sorted({1, bench.threads_available()})
    assert [row["name"].split()[0] for row in rows[len(ceiling) :]] == [
        "quantize", "dequantize", "pack_bits", "unpack_bits",
    ]  # fmt: skip
    for row in rows:
        assert 0 < row["gb_per_s_p10"] <= row["gb_per_s"]
        assert row["ratio"] is None or 0 < row["ratio_p10"] <= row["ratio"]
        assert (row["vs_torch"] is None) == ("pack" not in row["name"])
        assert row["vs_torch"] is None or 0 < row["vs_torch_p10"] <= row["vs_torch"]


def test_inputs_fill_what_must_rotate():
    for operation in bench.operations(SMALL):
        tensors = [getattr(x, "codes", x) for x in operation.inputs]
        assert sum(x.nbytes for x in tensors) >= bench.ROTATE
        assert len({x.data_ptr() for x in tensors}) == len(tensors)


def test_an_operation_is_timed_in_turns_with_the_copy(monkeypatch: pytest.MonkeyPatch):
    # A clock that only the operation advances, by 2 s, and each look at it by 1 s: copy 1 s, operation 3 s.
    now = 0

    def clock() -> int:
        nonlocal now
        now += 1
        return now

    def work(item: str) -> None:
        nonlocal now
        now += 2
        seen.append(item)

    seen: list[str] = []
    monkeypatch.setattr(bench, "perf_counter", clock)
    row = bench.beside_copy(bench.Operation("work", 6, work, ["a", "b"]), rounds=3)
    assert seen == ["a", "b", "a", "b"]  # the first warms up
    assert row.ratio == row.ratio_p10 == pytest.approx(1 / 3, rel=1e-12)
    assert row.gb_per_s == pytest.approx(2e-9, rel=1e-12)


def test_json_is_one_object(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "run", lambda rounds: [{"name": "read", "rounds": rounds}])
    monkeypatch.setattr(bench, "PARAMETERS", 2**12)
    bench.main(["--json", "--rounds", "2"])
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == [{"name": "read", "rounds": 2}]
    assert {row["type"] for row in report["encodings"]} == set(bench.ENCODED)
    assert set(report["machine"]) == {"processor", "features", "threads", "torch"}


def test_the_table_has_one_line_per_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    rows = bench.run(rounds=1, shape=SMALL)
    monkeypatch.setattr(bench, "run", lambda rounds: rows)
    monkeypatch.setattr(bench, "PARAMETERS", 2**12)
    bench.main([])
    lines = [line[:24].strip() for line in capsys.readouterr().out.splitlines()]
    assert [name for name in lines if name in {row["name"] for row in rows}] == [row["name"] for row in rows]
    assert {f"encode {name}" for name in bench.ENCODED} <= set(lines)


def test_encodings_stand_beside_the_peers():
    class Peer:
        """As fast as nothing at all."""

        def quantize(self, W, type_number, out, importance=None):
            seen.append((type_number, W.shape, out.nbytes))

    seen = []
    rows = list(bench.encodings(rounds=2, parameters=2**13, peer=Peer()))
    assert {row.type for row in rows} == set(bench.ENCODED)
    assert all(0 < row.vs_ggml_p10 <= row.vs_ggml and row.per_s_p10 <= row.per_s for row in rows)
    by_type = {number: sum(n for kind, _, n in seen if kind == number) for number, *_ in seen}
    q8, q4 = by_type[8], by_type[2]  # Q8_0 and Q4_0: 34 and 18 bytes a block
    assert q8 / q4 == 34 / 18
    alone = next(bench.encodings(rounds=1, parameters=2**13))
    assert alone.ggml_per_s is None and alone.vs_ggml is None


def test_no_rounds_is_an_error(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(QlabError, match="rounds is 0"):
        bench.run(rounds=0)
    with pytest.raises(SystemExit) as stop:
        bench.main(["--rounds", "0"])
    assert stop.value.code == 2
    assert "rounds is 0" in capsys.readouterr().err
