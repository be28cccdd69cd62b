"""The palette holds what it promises: contrast, greyscale, color-blind eyes; and leaks nothing."""

import itertools

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from enough import plotting

# Simulations of full color blindness, applied to linear RGB: Machado, Oliveira and Fernandes
# 2009, severity 1.0; and, by another model, Vienot, Brettel and Mollon 1999.
MACHADO = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
VIENOT = {
    "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}
RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(color):
    """Linear-light RGB of an sRGB color (IEC 61966-2-1)."""
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def luminance(color):
    return float(RGB_TO_XYZ[1] @ linear(color))


def contrast(one, other):
    """WCAG 2.1 contrast ratio."""
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    """CIE L*a*b* of linear RGB, white point of equal RGB."""
    ratio = RGB_TO_XYZ @ np.clip(rgb, 0, 1) / RGB_TO_XYZ.sum(axis=1)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def closest(colors, matrix):
    """The smallest color difference (CIE 1976) between any two, seen through a simulation."""
    seen = [lab(np.array(matrix) @ linear(c)) for c in colors]
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))


def test_the_yardsticks_themselves():
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.005)  # WCAG's known example
    assert lab(linear("white")) == pytest.approx([100, 0, 0], abs=1e-9)
    assert lab(linear("red")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    for matrix in [*MACHADO.values(), *VIENOT.values()]:
        assert np.array(matrix).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)  # white stays
    # The simulations do find the pair that everyone warns of.
    red_and_green = ["#c03030", "#508020"]
    assert closest(red_and_green, np.eye(3)) > 80
    assert closest(red_and_green, MACHADO["deuteranopia"]) < 20


@pytest.mark.parametrize("color", plotting.PALETTE)
def test_every_line_color_stands_out_from_the_card(color):
    assert contrast(color, plotting.CARD) >= 3


def test_text_is_legible_on_the_card_and_the_grid_stays_behind():
    assert contrast(plotting.INK, plotting.CARD) >= 7  # WCAG AAA
    assert 1.1 < contrast(plotting.GRID, plotting.CARD) < 1.5


def test_the_first_four_colors_differ_in_greyscale():
    lightness = [lab(linear(c))[0] for c in plotting.PALETTE[:4]]
    gaps = [abs(a - b) for a, b in itertools.combinations(lightness, 2)]
    assert min(gaps) >= 10  # a just noticeable difference is about 1


@pytest.mark.parametrize("kind", MACHADO)
def test_all_colors_stay_apart_under_color_blindness_by_machado(kind):
    assert closest(plotting.PALETTE, MACHADO[kind]) >= 20


@pytest.mark.parametrize("kind", VIENOT)
def test_all_colors_stay_apart_under_color_blindness_by_vienot(kind):
    assert closest(plotting.PALETTE, VIENOT[kind]) >= 20


def test_color_is_never_the_only_difference():
    assert len(set(plotting.PALETTE)) == len(plotting.PALETTE) == 6
    assert len(set(plotting.MARKERS)) == len(set(plotting.LINESTYLES)) == 6
    cycle = list(plotting.STYLE["axes.prop_cycle"])
    assert [entry["color"] for entry in cycle] == list(plotting.PALETTE)
    assert [entry["marker"] for entry in cycle] == list(plotting.MARKERS)
    assert [entry["linestyle"] for entry in cycle] == list(plotting.LINESTYLES)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_shades_rise_in_lightness_and_stand_out(n):
    colors = plotting.shades(n)
    assert len(colors) == n
    lightness = np.array([lab(linear(c))[0] for c in colors])
    assert (np.diff(lightness) > 4).all()
    assert min(contrast(c, plotting.CARD) for c in colors) >= 3


def test_shades_refuses_none():
    with pytest.raises(ValueError, match=r"^n: expected a number >= 1, got 0"):
        plotting.shades(0)


def test_style_applies_inside_the_block_only():
    before = dict(matplotlib.rcParams)
    with plotting.style():
        assert matplotlib.rcParams["axes.facecolor"] == plotting.CARD
        matplotlib.rcParams["lines.linewidth"] = 77
    assert dict(matplotlib.rcParams) == before


def test_figures_take_the_style_and_leave_the_settings_alone():
    plt.get_backend()  # settled, since figure() may do that too
    before = dict(matplotlib.rcParams)
    fig, ax = plotting.figure("A line that goes straight up and right", "Two points.")
    assert dict(matplotlib.rcParams) == before
    (first,) = ax.plot([0, 1], [0, 1])
    (second,) = ax.plot([0, 1], [1, 0])
    assert to_rgb(fig.get_facecolor()) == to_rgb(ax.get_facecolor()) == to_rgb(plotting.CARD)
    for line, i in ((first, 0), (second, 1)):
        assert line.get_color() == plotting.PALETTE[i]
        assert line.get_marker() == plotting.MARKERS[i]
        assert line.get_linewidth() == 1.8
    assert first.get_linestyle() == "-"
    assert second.get_linestyle() == "--"
    plotting.show(fig)
    assert dict(matplotlib.rcParams) == before


def test_a_reader_s_own_settings_do_not_change_the_figure():
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "lines.linewidth": 9}):
        fig, ax = plotting.figure("A line that goes straight up and right", "Two points.")
        (line,) = ax.plot([0, 1])
        assert to_rgb(ax.get_facecolor()) == to_rgb(plotting.CARD)
        assert ax.xaxis.label.get_size() == 10
        assert line.get_linewidth() == 1.8
        plt.close(fig)
