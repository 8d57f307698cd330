"""The record of peers: what it says of its rows, and that our best 4-bit model is nearest to the reference."""

from qlab.records import load_record


def rows():
    return {row["name"]: row for row in load_record("peers")["rows"]}


def test_every_row_says_what_made_it():
    for row in rows().values():
        assert row["options"] and row["seconds"] > 0 and row["kl_se"] < 0.1 * row["kl_mean"]
        if row["tool"] != "qlab":
            assert {row["tool"], "torch", "transformers", "python"} <= set(row["versions"])
    assert {"gptqmodel", "llmcompressor", "auto-round"} <= set(rows())


def test_our_best_is_nearer_to_the_reference_than_theirs():
    ours = min((row for row in rows().values() if row["tool"] == "qlab"), key=lambda row: row["kl_mean"])
    for row in rows().values():
        if row["tool"] != "qlab":
            apart = (row["kl_se"] ** 2 + ours["kl_se"] ** 2) ** 0.5
            assert ours["kl_mean"] < row["kl_mean"] - 2 * apart
