"""The loss-by-position figure: a step for each stretch, and nothing that drifts between machines."""

from qlab.plots.position import loss_by_position


def test_each_stretch_holds_its_mean_until_the_next():
    (steps,) = loss_by_position([0, 8, 64], [3.123456, 2.5]).data
    assert list(steps.x) == [1, 9, 65]
    assert list(steps.y) == [3.123, 2.5, 2.5]
    assert steps.line.shape == "hv"


def test_the_axis_names_the_edges():
    fig = loss_by_position([0, 8, 64], [3.0, 2.5])
    assert fig.layout.xaxis.type == "log"
    assert list(fig.layout.xaxis.ticktext) == ["1", "8", "64"]
    assert fig.layout.yaxis.title.text == "mean loss (nats per token)"
