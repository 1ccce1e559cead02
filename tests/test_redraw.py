"""The kept background never shows: every picture equals a full draw in every pixel."""

import numpy as np
import pytest
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullFormatter

from gm_utils.redraw import Redraw

GRID = np.linspace(0, 6, 50)


def busy_figure(layout=None):
    """Return a figure with lines, a legend, an image, points, a colour bar, twin axes, free text and a suptitle.

    A layout engine runs before the first picture only, and would take a third of each test's time.
    """
    rng = np.random.default_rng(0)
    figure = Figure(figsize=(7, 3), dpi=50, layout=layout)
    left, right = figure.subplots(1, 2)
    lines = [left.plot(GRID, np.sin(GRID + k), label=f"phase {k}")[0] for k in range(2)]
    left.set(xlabel="x", ylabel="sin x", title="two sines", ylim=(-1.2, 1.2))
    left.legend(loc="upper right")
    twin = left.twinx()
    twin.plot(GRID, GRID**2, color="grey")
    note = left.text(1, 0, "free text")
    image = right.imshow(rng.normal(size=(20, 20)), extent=(-3, 3, -3, 3), vmin=-2, vmax=2, aspect="auto")
    points = right.scatter(*rng.normal(size=(2, 50)), s=8, color="white")
    bar = figure.colorbar(image, ax=right)
    figure.suptitle("all of it")
    return figure, {"left": left, "right": right, "twin": twin, "lines": lines, "note": note, "image": image,
                    "points": points, "bar": bar, "rng": rng}


def simple_figure():
    figure = Figure(figsize=(4, 3), dpi=80, layout="constrained")
    axes = figure.subplots()
    (line,) = axes.plot(GRID, np.sin(GRID))
    axes.set(xlabel="x", ylabel="y", ylim=(-1.2, 1.2))
    return figure, axes, line


def move_data(parts, k):
    for i, line in enumerate(parts["lines"]):
        line.set_ydata(np.sin(GRID + i + 0.3 * k))
    parts["image"].set_data(parts["rng"].normal(size=(20, 20)))
    parts["points"].set_offsets(parts["rng"].normal(size=(50, 2)))


CHANGES = {
    "nothing": lambda p: None,
    "limits": lambda p: p["left"].set_xlim(1, 5),
    "limits of the twin": lambda p: p["twin"].set_ylim(0, 90),
    "autoscale": lambda p: (p["lines"][0].set_ydata(9 * np.cos(GRID)), p["left"].relim(), p["left"].autoscale()),
    "axis label": lambda p: p["left"].set_xlabel("another label"),
    "title": lambda p: p["right"].set_title("another title"),
    "title on the left": lambda p: p["right"].set_title("a left title", loc="left"),
    "title colour": lambda p: p["left"].title.set_color("red"),
    "suptitle": lambda p: p["left"].figure.suptitle("changed"),
    "scale": lambda p: p["twin"].set_yscale("symlog"),
    "legend text": lambda p: p["left"].get_legend().get_texts()[0].set_text("renamed"),
    "legend anew": lambda p: p["left"].legend(loc="lower left", title="with a title"),
    "legend moved outside": lambda p: p["left"].get_legend().set_bbox_to_anchor((0.5, 1.3)),
    "legend removed": lambda p: p["left"].get_legend().remove(),
    "colour limits": lambda p: p["image"].set_clim(-1, 4),
    "colour map": lambda p: p["image"].set_cmap("magma"),
    "colour bar label": lambda p: p["bar"].set_label("nats"),
    "ticks": lambda p: p["left"].set_xticks([1, 2, 5], ["one", "two", "five"]),
    "tick locator": lambda p: p["right"].xaxis.set_major_locator(FixedLocator([-2, 0, 1])),
    "tick formatter": lambda p: p["right"].yaxis.set_major_formatter(NullFormatter()),
    "minor ticks": lambda p: p["left"].minorticks_on(),
    "minor formatter": lambda p: (p["left"].minorticks_on(), p["left"].xaxis.set_minor_formatter("{x:.1f}")),
    "ticks made anew": lambda p: p["left"].xaxis.set_tick_params(reset=True, labelcolor="red"),
    "ticks above": lambda p: p["left"].xaxis.tick_top(),
    "label above": lambda p: p["left"].xaxis.set_label_position("top"),
    "label elsewhere": lambda p: p["left"].xaxis.set_label_coords(0.1, -0.2),
    "hidden axis": lambda p: p["right"].yaxis.set_visible(False),
    "inverted axis": lambda p: p["left"].invert_xaxis(),
    "tick size": lambda p: p["left"].tick_params(labelsize=14, length=9, direction="inout"),
    "one tick label": lambda p: p["left"].get_xticklabels()[2].set_color("red"),
    "grid": lambda p: p["left"].grid(True),
    "added line": lambda p: p["left"].plot(GRID, 0.1 * GRID, "k--"),
    "added patch": lambda p: p["right"].add_patch(Rectangle((-1, -1), 2, 2, alpha=0.5)),
    "removed line": lambda p: p["lines"].pop().remove(),
    "removed twin": lambda p: p["twin"].remove(),
    "z-order": lambda p: p["lines"][0].set_zorder(10),
    "spine": lambda p: p["right"].spines["top"].set_visible(False),
    "spine colour": lambda p: p["left"].spines["left"].set_color("red"),
    "background of the axes": lambda p: p["left"].set_facecolor("lightyellow"),
    "background of the figure": lambda p: p["left"].figure.set_facecolor("0.9"),
    "axes off": lambda p: p["right"].set_axis_off(),
    "frame off": lambda p: p["right"].set_frame_on(False),
    "axes hidden": lambda p: p["right"].set_visible(False),
    "axis below": lambda p: p["right"].set_axisbelow(False),
    "position": lambda p: p["left"].set_position([0.1, 0.2, 0.3, 0.5]),
    "aspect": lambda p: p["right"].set_aspect("equal"),
    "dpi": lambda p: p["left"].figure.set_dpi(60),
    "size": lambda p: p["left"].figure.set_size_inches(5, 4),
    "text moved over a tick label": lambda p: p["note"].set_position((0, -1.5)),
    "line without clipping": lambda p: (p["lines"][0].set_clip_on(False), p["lines"][0].set_ydata(2 * np.sin(GRID))),
    "hidden line": lambda p: p["lines"][0].set_visible(False),
    "inset": lambda p: p["left"].inset_axes([0.6, 0.6, 0.3, 0.3]).plot(GRID, GRID),
    "figure text": lambda p: p["left"].figure.text(0.4, 0.5, "over everything", zorder=9),
}


@pytest.mark.parametrize("name", CHANGES)
def test_picture_equals_a_full_draw_after_every_change(name):
    figure, parts = busy_figure()
    redraw = Redraw(figure)
    move_data(parts, 1)
    redraw.draw()
    CHANGES[name](parts)
    redraw.draw()
    np.testing.assert_array_equal(redraw.pixels(), redraw.full_draw())
    redraw.draw()
    redraw.draw()
    move_data(parts, 2)
    redraw.draw()
    np.testing.assert_array_equal(redraw.pixels(), redraw.full_draw())


@pytest.mark.parametrize("layout", [None, "constrained"])
def test_data_moves_reuse_the_background(layout):
    figure, parts = busy_figure(layout)
    redraw = Redraw(figure)
    before = redraw.full_draws
    first = redraw.pixels()
    for k in range(5):
        move_data(parts, k)
        redraw.draw()
    assert redraw.full_draws == before
    assert (redraw.pixels() != first).any()


def test_the_background_holds_ticks_and_text():
    figure, axes, _ = simple_figure()
    redraw = Redraw(figure)
    assert axes.xaxis.label not in redraw.redrawn
    assert all(tick.label1 not in redraw.redrawn for tick in axes.xaxis.get_major_ticks())


def test_limits_set_to_what_they_are_cost_nothing():
    figure, axes, line = simple_figure()
    redraw = Redraw(figure)
    before = redraw.full_draws
    for k in range(3):
        axes.set(xlim=axes.get_xlim(), ylim=(-1.2, 1.2))
        line.set_ydata(np.sin(GRID + k))
        redraw.draw()
        assert redraw.full_draws == before
    np.testing.assert_array_equal(redraw.pixels(), redraw.full_draw())


def test_moving_limits_cost_one_full_draw_a_move():
    figure, axes, _ = simple_figure()
    redraw = Redraw(figure)
    before = redraw.full_draws
    for k in range(4):
        axes.set_xlim(0, 7 + k)
        redraw.draw()
        np.testing.assert_array_equal(redraw.pixels(), redraw.full_draw())
    assert redraw.full_draws - before <= 4


def test_the_comparison_can_fail(monkeypatch):
    """If no artist is watched, a changed label shows the stale picture, and the comparison sees it."""
    figure, axes, _ = simple_figure()
    redraw = Redraw(figure)
    monkeypatch.setattr(Artist, "stale", property(lambda self: False, lambda self, value: None))
    axes.set_xlabel("unseen")
    redraw.draw()
    stale = redraw.pixels()
    assert (stale != redraw.full_draw()).any()


UNCOMMON = {
    "polar axes": lambda figure: figure.add_subplot(projection="polar"),
    "inset axes": lambda figure: figure.add_subplot().inset_axes([0.5, 0.5, 0.4, 0.4]),
    "subfigures": lambda figure: figure.subfigures(1, 2)[0].add_subplot(),
}


@pytest.mark.parametrize("kind", UNCOMMON)
def test_uncommon_figures_are_drawn_in_full(kind):
    figure = Figure(figsize=(3, 3), dpi=60)
    (line,) = UNCOMMON[kind](figure).plot([0, 1], [0, 1])
    redraw = Redraw(figure)
    before = redraw.full_draws
    line.set_data([0, 2], [1, 1])
    redraw.draw()
    assert redraw.full_draws == before + 1
    fast = redraw.pixels()
    np.testing.assert_array_equal(fast, redraw.full_draw())


def test_text_over_low_axes_stays_above_the_data():
    """Agg counts rows from the top, boxes count from below: mirrored, this text would seem to be clear of the line."""
    figure = Figure(figsize=(3, 3), dpi=60)
    (line,) = figure.add_axes((0.1, 0.1, 0.8, 0.35)).plot([0, 1], [0, 1], linewidth=8)
    figure.text(0.4, 0.25, "over")
    redraw = Redraw(figure)
    line.set_ydata([0.2, 0.9])
    redraw.draw()
    fast = redraw.pixels()
    np.testing.assert_array_equal(fast, redraw.full_draw())
