"""The theme: colours that carry on both backgrounds, data that is the same everywhere."""

import itertools
import json

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.plots import theme

WHITE, BLACK = "#ffffff", "#121212"  # pages: light, and the dark of JupyterLab and the book
COLOURS = [*theme.SERIES, theme.GREY]

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]


def linear(colour):
    """sRGB to linear light (IEC 61966-2-1)."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """WCAG 2 contrast ratio."""
    high, low = sorted((linear(c) @ [0.2126, 0.7152, 0.0722] + 0.05 for c in (a, b)), reverse=True)
    return high / low


def lab(rgb):
    """CIELAB of linear RGB, D65."""
    M = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(M) @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("page", [WHITE, BLACK])
@pytest.mark.parametrize("colour", COLOURS)
def test_marks_have_the_contrast_wcag_asks_of_graphics(colour, page):
    assert contrast(colour, page) >= 3


def test_text_grey_is_the_best_one_grey_can_be():
    """The product of both contrasts is fixed, so the worse of the two is at most its root."""
    best = contrast(WHITE, BLACK) ** 0.5
    worse = min(contrast(theme.GREY, WHITE), contrast(theme.GREY, BLACK))
    one_level = contrast(theme.GREY, "#7b7b7b")
    assert best / one_level <= worse <= best


@pytest.mark.parametrize("seen", [np.eye(3), np.array(DEUTERANOPIA), np.array(PROTANOPIA)])
def test_neighbouring_series_differ_for_every_reader(seen):
    """Ten just noticeable differences (CIE76's is 2.3) between the two colours that carry most figures and between
    neighbours in the cycle; all others differ in symbol and dash as well."""
    pairs = [*itertools.pairwise(theme.SERIES), (theme.BLUE, theme.ORANGE)]
    distances = [np.linalg.norm(lab(seen @ linear(a)) - lab(seen @ linear(b))) for a, b in pairs]
    assert min(distances) >= 10 * 2.3


def test_series_differ_without_colour():
    assert len(set(theme.SYMBOLS)) == len(set(theme.DASHES)) == len(theme.SERIES)


def test_diverging_scale_is_clear_at_zero_and_even_around_it():
    scale = theme.diverging(torch.tensor([[-1.0, 3.0]]))
    assert (scale["zmin"], scale["zmax"], scale["zmid"]) == (-3.0, 3.0, 0)
    assert [stop for stop, _ in theme.DIVERGING] == [0, 0.5, 0.5, 1]
    assert all(colour.endswith(" 0)") for stop, colour in theme.DIVERGING if stop == 0.5)


@pytest.mark.parametrize("matrix", [[[0.0, 0.0]], [[float("nan"), float("inf")]]])
def test_diverging_scale_of_nothing_is_still_a_scale(matrix):
    assert theme.diverging(matrix)["zmax"] == 1.0


@given(st.floats(-1e308, 1e308))
def test_rounded_stays_within_half_a_digit(value):
    """4 digits: at most 5 in the fifth, relative 5e-4; subnormals keep fewer digits by themselves."""
    assert abs(theme.rounded(value) - value) <= 5e-4 * abs(value) + 5e-324


@given(st.lists(st.floats(1e-30, 1e30), min_size=1))
def test_rounded_is_idempotent_and_plain(values):
    once = theme.rounded(np.array(values))
    assert theme.rounded(once) == once
    assert json.loads(json.dumps(once)) == once


def test_rounded_by_hand():
    values = torch.tensor([[1.23456, -0.0], [float("nan"), float("inf")]], dtype=torch.bfloat16)
    assert theme.rounded(values) == [[1.234, 0.0], [None, None]]  # 1.234375 in bfloat16
    assert theme.rounded(0.000123456) == 0.0001235
    assert str(theme.rounded(-0.0)) == "0.0"


def test_finish_sets_labels_caption_and_a_transparent_page():
    caption = "word " * 40
    fig = theme.figure(go.Scatter(y=[1, 2]), title="T", x="a (s)", y="b", caption=caption)
    assert (fig.layout.title.text, fig.layout.xaxis.title.text, fig.layout.yaxis.title.text) == ("T", "a (s)", "b")
    lines = fig.layout.title.subtitle.text.split("<br>")
    assert " ".join(lines) == caption.strip()
    assert max(map(len, lines)) <= theme.CAPTION_WIDTH
    assert fig.layout.template.layout.paper_bgcolor == "rgba(0, 0, 0, 0)" == fig.layout.template.layout.plot_bgcolor


def test_legend_only_where_there_is_a_choice():
    one, two = go.Scatter(y=[1], name="a"), go.Scatter(y=[1], name="b")
    assert not theme.figure(one, title="").layout.showlegend
    assert theme.figure(one, two, title="").layout.showlegend


def test_faded():
    assert theme.faded("#2480c8", 0.5) == "rgba(36, 128, 200, 0.5)"
