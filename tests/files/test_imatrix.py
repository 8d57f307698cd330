"""Importance matrices: both forms there and back, and every bad file named."""

import pytest
import torch

from qlab.errors import QlabError
from qlab.files.imatrix import ImportanceMatrix, read_imatrix, write_imatrix

MATRIX = ImportanceMatrix(
    {"blk.0.attn_q.weight": torch.rand(8) * 100, "blk.0.ffn_down.weight": torch.rand(16) * 100},
    {"blk.0.attn_q.weight": 1024, "blk.0.ffn_down.weight": 1024}, ("some text",), 2, 512,
)  # fmt: skip


def test_the_gguf_form_comes_back_exactly(tmp_path):
    write_imatrix(MATRIX, tmp_path / "x.gguf")
    found = read_imatrix(tmp_path / "x.gguf")
    assert (found.counts, found.datasets, found.chunks, found.chunk_size) == (MATRIX.counts, ("some text",), 2, 512)
    assert found.sums.keys() == MATRIX.sums.keys()
    assert all(torch.equal(found.sums[name], MATRIX.sums[name]) for name in MATRIX.sums)
    assert not list(tmp_path.glob(".*"))


def test_the_older_form_keeps_the_means(tmp_path):
    write_imatrix(MATRIX, tmp_path / "x.dat")
    found = read_imatrix(tmp_path / "x.dat")
    assert found.datasets == ("some text",) and found.chunks == 2
    for name, sums in MATRIX.sums.items():
        torch.testing.assert_close(found.stats(name, len(sums)).mean_sq, sums.double() / 1024, rtol=1e-6, atol=0)


def test_statistics_are_for_one_tensor_of_one_model():
    assert MATRIX.stats("blk.0.attn_k.weight", 8) is None
    torch.testing.assert_close(MATRIX.stats("blk.0.attn_q.weight", 8).mean_sq,
                               MATRIX.sums["blk.0.attn_q.weight"].double() / 1024)  # fmt: skip
    with pytest.raises(QlabError, match=r"has 8 channels for blk.0.attn_q.weight, the model 9: compute it from this"):
        MATRIX.stats("blk.0.attn_q.weight", 9)


@pytest.mark.parametrize("suffix", ["gguf", "dat"])
def test_every_cut_is_named(tmp_path, suffix):
    write_imatrix(MATRIX, tmp_path / f"x.{suffix}")
    whole = (tmp_path / f"x.{suffix}").read_bytes()
    end = len(whole) if suffix == "gguf" else len(whole) - len("some text") - 8
    for length in [n for n in range(0, end, 5) if n < end - 32]:
        (tmp_path / f"cut.{suffix}").write_bytes(whole[:length])
        with pytest.raises(QlabError, match=f"cut.{suffix}"):
            read_imatrix(tmp_path / f"cut.{suffix}")


def test_other_files_are_named(tmp_path):
    with pytest.raises(QlabError, match=r"cannot read the importance matrix: .*nowhere: No such file"):
        read_imatrix(tmp_path / "nowhere")
    (tmp_path / "x.dat").write_bytes(bytes([255] * 64))
    with pytest.raises(QlabError, match=r"it announces -1 entries"):
        read_imatrix(tmp_path / "x.dat")
    bad = ImportanceMatrix({"a.weight": torch.tensor([1.0, float("nan")])}, {"a.weight": 1})
    write_imatrix(bad, tmp_path / "nan.gguf")
    with pytest.raises(QlabError, match=r"nan.gguf: a.weight holds negative numbers or NaN"):
        read_imatrix(tmp_path / "nan.gguf")
