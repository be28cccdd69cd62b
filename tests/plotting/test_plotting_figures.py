"""Figures carry their words, are drawn legibly, and go where they can be seen."""

import base64
import io
import json
import os
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

from enough import plotting
from enough.plotting import display, figures

ALT = "A line that rises from the lower left to the upper right"
CAPTION = "Risk rises with width."


@pytest.fixture(autouse=True)
def _no_figures_left(monkeypatch):
    monkeypatch.delenv("ENOUGH_FIGURES", raising=False)
    plt.close("all")
    yield
    plt.close("all")


def test_words_travel_with_the_figure():
    fig, _ = plotting.figure(ALT, CAPTION, name="risk-1", data={"x": torch.arange(3)})
    assert plotting.description(fig) == {
        "alt": ALT,
        "caption": CAPTION,
        "name": "risk-1",
        "width": 600,
        "height": 380,
        "data": {"x": [0, 1, 2]},
    }
    assert (fig.enough_alt, fig.enough_caption, fig.enough_name) == (ALT, CAPTION, "risk-1")


def test_without_data_the_description_has_none_until_it_is_attached():
    fig, _ = plotting.figure(alt=ALT, caption=CAPTION)
    assert "data" not in plotting.description(fig)
    plotting.attach(fig, {"n": [1, 2], "risk": np.array([0.5, 0.25])})
    assert plotting.description(fig)["data"] == {"n": [1, 2], "risk": [0.5, 0.25]}
    json.dumps(plotting.description(fig), allow_nan=False)


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("Risk rises with width.", "risk-rises-with-width"),
        ("A: one two three four five six seven eight", "a-one-two-three-four-five-six-seven"),
        ("Größe α ≥ 1", "gr-sse-1"),
        ("αβγ", "figure"),
        ("x" * 90, "x" * 60),
    ],
)
def test_the_name_comes_from_the_caption(caption, name):
    fig, _ = plotting.figure(ALT, caption)
    assert fig.enough_name == name


def test_line_breaks_of_the_source_are_not_part_of_the_words():
    fig, _ = plotting.figure("A line that rises\n        from left to right", " Risk\n  rises. ")
    assert fig.enough_alt == "A line that rises from left to right"
    assert fig.enough_caption == "Risk rises."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"caption": CAPTION}, r"^alt: expected a text, which every figure needs, got ''"),
        ({"alt": ALT}, r"^caption: expected a text, which every figure needs, got ''"),
        ({"alt": "  \n ", "caption": CAPTION}, r"^alt: expected a text"),
        ({"alt": None, "caption": CAPTION}, r"^alt: expected a text, .* got None"),
        ({"alt": "A plot.", "caption": CAPTION}, r"^alt: expected at least 20 characters .* got 7"),
        (
            {"alt": ALT, "caption": ALT.upper() + "."},
            r"^alt: expected another text than the caption",
        ),
        (
            {"alt": ALT, "caption": CAPTION, "name": "Two words"},
            r"^name: expected lower-case .* got",
        ),
        ({"alt": ALT, "caption": CAPTION, "name": ""}, r"^name: expected lower-case"),
        ({"alt": ALT, "caption": CAPTION, "name": "../up"}, r"^name: expected lower-case"),
        ({"alt": ALT, "caption": CAPTION, "width": 0}, r"^width: expected a number > 0"),
        ({"alt": ALT, "caption": CAPTION, "height": -1}, r"^height: expected a number > 0"),
        ({"alt": ALT, "caption": CAPTION, "nrows": 0}, r"^nrows: expected a number >= 1"),
        ({"alt": ALT, "caption": CAPTION, "ncols": 1.5}, r"^ncols: expected a whole number"),
        ({"alt": ALT, "caption": CAPTION, "data": {}}, r"^columns: expected at least one column"),
    ],
)
def test_figures_without_words_or_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plotting.figure(**arguments)
    assert plt.get_fignums() == []


def test_a_mistake_in_the_subplots_leaves_no_figure_open():
    with pytest.raises(TypeError, match="shareX"):
        plotting.figure(ALT, CAPTION, shareX=True)
    assert plt.get_fignums() == []


def test_several_axes_share_what_they_are_told_to():
    fig, axes = plotting.figure(ALT, CAPTION, nrows=2, ncols=2, sharey="row", height=5)
    assert axes.shape == (2, 2)
    assert axes[0, 0].get_shared_y_axes().joined(axes[0, 0], axes[0, 1])
    assert plotting.description(fig)["width"] == 750
    assert plotting.description(fig)["height"] == 500


def test_other_figures_are_refused():
    plain = matplotlib.figure.Figure()
    for function in (plotting.show, plotting.description, lambda f: plotting.attach(f, {"x": [1]})):
        with pytest.raises(ValueError, match=r"^fig: expected a figure made by enough.plotting"):
            function(plain)


def draw(fig):
    fig.canvas.draw()


def test_markers_thin_out_on_long_lines_only():
    fig, ax = plotting.figure(ALT, CAPTION)
    (short,) = ax.plot(range(16))
    (long,) = ax.plot(range(1000))
    (chosen,) = ax.plot(range(1000), markevery=[3])
    (cloud,) = ax.plot(range(1000), "o")
    draw(fig)
    assert short.get_markevery() is None
    assert long.get_markevery() == 63  # 16 markers: 0, 63, ..., 945
    assert chosen.get_markevery() == [3]
    assert cloud.get_markevery() is None


@pytest.mark.parametrize(
    "plot",
    [
        lambda ax: ax.errorbar([1, 2], [1, 2], yerr=0.5),
        lambda ax: ax.loglog([1, 10], [1, 100]),
        lambda ax: ax.semilogx([-1, 10], [1, 100]),
        lambda ax: ax.step(range(50), range(50)),
        lambda ax: ax.bar(["a", "b"], [1, 2]),
        lambda ax: ax.hist([1, 2, 2]),
        lambda ax: ax.scatter([1, 2], [3, 4]),
        lambda ax: ax.boxplot([[1, 2, 3]]),
        lambda ax: ax.fill([0, 1, 1], [0, 0, 1]),
        lambda ax: ax.axhline(0.5),
        lambda ax: ax.plot([], []),
        lambda ax: ax.plot([1.0, np.nan, 2.0] * 20),
    ],
)
def test_the_style_suits_every_common_plot(plot):
    fig, ax = plotting.figure(ALT, CAPTION)
    plot(ax)
    draw(fig)
    assert len(ax.get_children()) > 10


def test_grid_lines_lie_under_images():
    _, ax = plotting.figure(ALT, CAPTION)
    image = ax.imshow(np.zeros((5, 5)))
    assert max(ax.xaxis.get_zorder(), ax.yaxis.get_zorder()) < image.get_zorder()


def test_other_projections_work():
    fig, ax = plotting.figure(ALT, CAPTION, subplot_kw={"projection": "polar"})
    ax.plot([0, 1], [0, 1])
    draw(fig)
    assert ax.name == "polar"


def busy_figure(name, n_lines=6):
    fig, ax = plotting.figure(ALT, CAPTION, name=name)
    rng = np.random.default_rng(0)
    for i in range(n_lines):
        plotting.band(ax, range(60), i + rng.normal(size=(8, 60)).cumsum(axis=1), label=f"line {i}")
    ax.set(xlabel="step", ylabel="loss (nats)")
    ax.legend(ncols=3)
    return fig


def test_in_a_script_nothing_is_shown_or_printed_and_the_figure_is_closed(capfd):
    fig, ax = plotting.figure(ALT, CAPTION)
    ax.plot([1, 2])
    assert plotting.show(fig) is None
    assert plt.get_fignums() == []
    assert capfd.readouterr() == ("", "")


def test_a_folder_collects_pictures_and_data(monkeypatch, tmp_path, capfd):
    folder = tmp_path / "new" / "figures"
    monkeypatch.setenv("ENOUGH_FIGURES", str(folder))
    fig = busy_figure("busy")
    plotting.attach(fig, {"x": [1, 2], "y": [0.5, 0.25]})
    plotting.show(fig)
    plotting.show(plotting.figure(ALT, CAPTION, name="bare")[0])
    assert sorted(p.name for p in folder.iterdir()) == ["bare.png", "busy.csv", "busy.png"]
    assert (folder / "busy.csv").read_text() == "x,y\n1,0.5\n2,0.25\n"
    assert plt.get_fignums() == []
    assert capfd.readouterr() == ("", "")

    picture = Image.open(folder / "busy.png")
    assert picture.size == (1200, 760)  # twice the size on the page
    assert picture.info["Description"] == ALT
    assert picture.info["Title"] == "busy"
    assert "Software" not in picture.info
    assert (folder / "busy.png").stat().st_size < 120_000


@pytest.mark.parametrize("name", ["plain", "reduced"])
def test_pictures_are_opaque_true_in_color_and_the_same_each_time(name):
    def make():
        return display._png(busy_figure("a", n_lines=1 if name == "plain" else 6))

    data = make()
    assert data == make()
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == {"plain": "RGB", "reduced": "P"}[name]
    assert "transparency" not in picture.info
    colors = {color for _, color in picture.convert("RGB").getcolors(maxcolors=1 << 20)}
    assert picture.convert("RGB").getpixel((0, 0)) == (0xFB, 0xFB, 0xF9)
    for color in plotting.PALETTE[: 1 if name == "plain" else 6]:
        wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
        assert min(np.abs(np.array(c) - wanted).max() for c in colors) <= 2


def test_alt_text_beyond_latin_letters_survives_in_the_picture():
    fig, _ = plotting.figure("κ falls as n → ∞ on a log–log plot", CAPTION)
    assert Image.open(io.BytesIO(display._png(fig))).info["Description"] == fig.enough_alt


def test_a_window_opens_only_with_an_interactive_backend(monkeypatch):
    opened = []
    monkeypatch.setattr(plt, "show", lambda: opened.append(plt.get_fignums()))
    fig, _ = plotting.figure(ALT, CAPTION)
    plotting.show(fig)
    assert opened == []

    fig, _ = plotting.figure(ALT, CAPTION)
    fig.canvas.required_interactive_framework = "qt"
    plotting.show(fig)
    assert opened == [[1]]
    assert plt.get_fignums() == []

    fig, _ = plotting.figure(ALT, CAPTION)
    fig.canvas.required_interactive_framework = "qt"
    monkeypatch.setattr(matplotlib, "is_interactive", lambda: True)
    plotting.show(fig)
    assert plt.get_fignums() == [1]  # beside an interactive prompt the window stays


@pytest.mark.parametrize(
    ("chosen", "display_variable", "terminal", "expected"),
    [
        (None, "", True, ["agg"]),  # no display
        (None, ":0", False, ["agg"]),  # a display, but nobody sits at it
        (None, ":0", True, []),  # Matplotlib picks a window
        ("svg", "", False, []),  # chosen by MPLBACKEND, a matplotlibrc or matplotlib.use
        ("qtagg", "", False, []),
    ],
)
def test_the_backend_is_agg_unless_chosen_or_watched(
    monkeypatch, chosen, display_variable, terminal, expected
):
    used = []
    monkeypatch.setattr(matplotlib, "get_backend", lambda auto_select: chosen)
    monkeypatch.setattr(matplotlib, "use", used.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display_variable)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    figures._choose_backend()
    assert used == expected


def test_a_plain_script_draws_without_a_display_and_prints_nothing():
    """Also with a display that does not answer: an unattended script opens no window."""
    script = (
        "import sys; from enough import plotting\n"
        f"fig, ax = plotting.figure({ALT!r}, {CAPTION!r}); ax.plot([1, 2]); plotting.show(fig)\n"
        "import matplotlib; assert matplotlib.get_backend().lower() == 'agg'\n"
        "assert 'IPython' not in sys.modules"
    )
    environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"} | {"DISPLAY": ":97"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_in_a_notebook_each_figure_comes_out_once_with_its_words():
    cells = [
        "from enough import plotting, runtime\n"
        f"def make(name):\n    fig, ax = plotting.figure({ALT!r}, {CAPTION!r}, name=name)\n"
        "    ax.plot([1, 2])\n    return fig",
        "fig = make('shown')\nplotting.attach(fig, {'x': [1, 2]})\nplotting.show(fig)",
        "make('last-expression')",
        "left_open = make('left-open')",
        "plotting.show(make('one')); plotting.show(make('two'))",
        "for _ in runtime.progress(range(3), label='loop'): pass",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    outputs = [cell.outputs for cell in notebook.cells]

    assert [len(o) for o in outputs] == [0, 1, 1, 1, 2, 0]
    names = ["shown", "last-expression", "left-open", "one", "two"]
    for output, name in zip([o for group in outputs for o in group], names, strict=True):
        assert output.output_type == "display_data"
        assert set(output.data) == {"image/png", "text/plain"}
        assert output.data["text/plain"] == f"Figure: {name}"
        about = output.metadata["enough.figure"]
        assert (about["alt"], about["caption"], about["name"]) == (ALT, CAPTION, name)
        assert output.metadata["image/png"] == {"width": 600, "height": 380}
        picture = base64.b64decode(output.data["image/png"])
        assert Image.open(io.BytesIO(picture)).size == (1200, 760)
        assert len(picture) < 120_000
    assert outputs[1][0].metadata["enough.figure"]["data"] == {"x": [1, 2]}
    about = outputs[2][0].metadata["enough.figure"]
    assert "data" not in about
    assert about["drawn"] == {
        "kind": ["line"] * 2, "series": ["line 1"] * 2, "x": [0.0, 1.0], "y": [1.0, 2.0]
    }  # fmt: skip
    assert about["columns"] == ["kind", "series", "x", "y"]
