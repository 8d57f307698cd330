"""The figures of lesson 09."""

from qlab.plots import decode_speed, kl_changes, search_steps

FILES = [
    {"name": "Q2", "size_bytes": 50e6, "decode_median": 60.0, "decode_p10": 50.0},
    {"name": "F16", "size_bytes": 200e6, "decode_median": 20.0, "decode_p10": 15.0},
]


def test_the_search_starts_at_min_max():
    stairs, dots = search_steps([3.0, 1.0], [2.0, 1.0], 2.0).data
    assert list(dots.x) == list(stairs.x) == [0, 1, 2]
    assert list(dots.y) == [1, 1.5, 0.5]
    assert list(stairs.y) == [1, 1, 0.5] and stairs.line.shape == "hv"


def test_changes_are_shares_of_the_kl_without():
    rows = [
        {"type": t, "matrix": m, "kl_change": -0.1, "kl_change_se": 0.02, "plain": p}
        for t, p in (("Q4", 0.2), ("Q2", 2.0))
        for m in ("one", "other")
    ]
    one, other = kl_changes(rows).data
    assert (one.name, other.name) == ("one", "other") and one.marker.symbol != other.marker.symbol
    assert list(one.x) == ["Q4", "Q2"] and list(one.y) == [-50, -5]
    assert list(one.error_y.array) == [19.6, 1.96]


def test_speed_by_size_with_what_bytes_alone_would_give():
    bars, bytes_alone = decode_speed(FILES).data
    assert list(bars.y) == list(bytes_alone.y) == ["F16, 200 MB", "Q2, 50 MB"]
    assert list(bars.x) == [20, 60] and list(bars.error_x.arrayminus) == [5, 10]
    assert list(bytes_alone.x) == [20, 80]
