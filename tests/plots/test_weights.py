"""Figures of weights, on values that can be checked by hand."""

import numpy as np
import pytest
import torch

from qlab.grid import get_grid
from qlab.plots import heatmap, histogram, outlier_map, staircase
from qlab.plots.weights import MAX_CELLS, pool_absmax


def test_histogram_shares_add_up():
    fig = histogram(torch.arange(10.0), bins=5)
    x, y = fig.data[0].x, fig.data[0].y
    assert list(x) == [0, 1.8, 3.6, 5.4, 7.2, 9]
    assert list(y) == [0.2] * 6  # the last is the end of the last step


def test_histogram_of_several_shares_its_edges():
    fig = histogram({"a": [0.0, 1.0], "b": [2.0, 4.0]}, bins=4)
    assert [trace.name for trace in fig.data] == ["a", "b"]
    assert fig.data[0].x == fig.data[1].x


def test_histogram_draws_each_distinct_finite_level_once():
    fig = histogram([0.0, 1.0], levels=[0.5, 0.0, -0.0, float("nan"), 0.5])
    assert list(fig.data[1].x) == [0.0, 0.0, None, 0.5, 0.5, None]
    assert fig.data[1].name == "2 levels"


def test_log_histogram_starts_below_one_weight():
    """An empty bin lies at half a weight; a bin of one weight stands above it."""
    fig = histogram([0.0] * 9 + [1.0], bins=3, log=True)
    assert list(fig.data[0].y) == [0.9, 0.05, 0.1, 0.1]
    assert fig.layout.yaxis.type == "log"


@pytest.mark.parametrize("values", [[2.0, 2.0], [float("nan")], torch.zeros(3, 3)])
def test_histogram_of_odd_values(values):
    assert len(histogram(values, bins=4).data[0].x) == 5


@pytest.mark.parametrize(
    ("name", "scale", "zero", "offset"), [("int4", 0.1, 8, 0.0), ("nf4", 1.0, 0, 0.0), ("int2", 0.5, 0, -1.0)]
)
def test_staircase_is_what_the_grid_does(name, scale, zero, offset):
    """Looked up at random x, the drawn steps give scale·(decode(encode(x)) − zero) + offset."""
    fig = staircase(get_grid(name), scale=scale, zero=zero, offset=offset)
    x, y = np.array(fig.data[1].x), np.array(fig.data[1].y)
    points = torch.rand(200, generator=torch.Generator().manual_seed(0)) * float(x[-1] - x[0]) + float(x[0])
    digit = 5e-4 * np.abs(x).max()  # corners are drawn with 4 digits: closer than that, either step is right
    points = points[np.abs(points.numpy()[:, None] - x).min(1) > digit]
    drawn = y[np.searchsorted(x, points.numpy())]
    grid = get_grid(name)
    units = (points - offset) / scale + zero
    expected = scale * (grid.decode(grid.encode(units)) - zero) + offset
    assert len(points) > 150
    assert np.allclose(drawn, expected, rtol=5e-4, atol=0)


def test_staircase_error_is_half_a_step_inside():
    error = np.array(staircase([0.0, 1.0, 2.0]).data[2].y)
    assert list(error) == [1.0, -0.5, 0.5, -0.5, 0.5, -1.0]


def test_heatmap_keeps_a_small_matrix():
    fig = heatmap([[1.0, -2.0], [0.0, 4.0]])
    assert [list(row) for row in fig.data[0].z] == [[1, -2], [0, 4]]
    assert (fig.data[0].zmin, fig.data[0].zmax) == (-4, 4)
    assert fig.layout.title.subtitle.text == ""


def test_heatmap_pools_a_large_matrix_and_says_so():
    W = torch.zeros(2 * MAX_CELLS + 1, 5)
    W[-1, 4], W[0, 0], W[1, 0] = -7.0, 1.0, -3.0
    fig = heatmap(W)
    z = np.array(fig.data[0].z)
    assert z.shape == (86, 5)  # 257 rows in blocks of 3
    assert (z[-1, 4], z[0, 0]) == (-7, -3)
    assert "3 × 1 entries" in fig.layout.title.subtitle.text
    assert (fig.data[0].y0, fig.data[0].dy) == (1, 3)  # the middle of rows 0, 1, 2


def test_unsigned_heatmap_shows_magnitudes():
    fig = heatmap([[-3.0, 1.0]], signed=False)
    assert list(fig.data[0].z[0]) == [3, 1]
    assert fig.data[0].zmin == 0


@pytest.mark.parametrize(("shape", "blocks"), [((6, 4), (2, 2)), ((7, 5), (3, 2)), ((1, 1), (4, 4))])
def test_pooling_against_a_loop(shape, blocks):
    W = np.random.default_rng(0).normal(size=shape)
    pooled = pool_absmax(W, blocks)
    for i, j in np.ndindex(pooled.shape):
        block = W[i * blocks[0] : (i + 1) * blocks[0], j * blocks[1] : (j + 1) * blocks[1]].ravel()
        assert pooled[i, j] == block[np.abs(block).argmax()]


@pytest.mark.parametrize(("order", "position", "first"), [("channel", 2, 1.0), ("sorted", 0, 20.0)])
def test_outlier_map_names_the_largest_channel(order, position, first):
    fig = outlier_map(torch.tensor([1.0, 2.0, 20.0, 2.0, 1.0]), order=order)
    label = fig.layout.annotations[0]
    assert label.text == "channel 2: 20<br>10 × the median"
    assert (label.x, label.y) == (position, 20)
    assert fig.data[0].y[0] == first
    assert fig.layout.shapes[0].y0 == 2.0


def test_outlier_map_of_a_mostly_silent_layer():
    assert outlier_map([0.0, 0.0, 5.0]).layout.annotations[0].text == "channel 2: 5<br>the median is 0"


def test_logarithmic_outlier_label_is_placed_in_decades():
    assert outlier_map([1.0, 100.0, 1.0], log=True).layout.annotations[0].y == 2


@pytest.mark.parametrize(
    "fig",
    [
        histogram(torch.randn(50, generator=torch.Generator().manual_seed(0)), levels=get_grid("nf4").levels),
        staircase(get_grid("e4m3")),
        heatmap(torch.ones(3, 3)),
        outlier_map(torch.ones(4)),
    ],
    ids=["histogram", "staircase", "heatmap", "outlier_map"],
)
def test_committed_json_holds_lists_and_labelled_axes(fig):
    assert "bdata" not in fig.to_json()
    assert fig.layout.yaxis.title.text
    assert fig.layout.xaxis.title.text or fig.layout.xaxis2.title.text
