"""Drawing one figure again and again, fast, and equal to a full draw in every pixel.

Ticks and text are what costs in a Matplotlib draw. The picture is split into leaves (a line, a tick mark, a tick
label, ...) in drawing order. A leaf goes into the background, painted once, if it is of a fixed kind (text of the
frame, tick marks, spines, patches of axes) and meets no earlier leaf that is drawn anew. All others are drawn anew,
in order, over that background. Two leaves swap places only if they share no pixel, so the picture stays the same.

Whatever could make the background stale causes a full draw: a changed limit, scale, size or position, an artist
added, removed or reordered, and any fixed leaf that Matplotlib itself has marked as changed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.spines import Spine
from matplotlib.transforms import Bbox

_MARGIN = 3.0  # pixels: antialiasing and snapping reach past an extent by less than this
_CLIP_MARGIN = 1.0  # pixels: Agg rounds a clip box to whole pixels
_EVERYWHERE = Bbox([[-1e9, -1e9], [1e9, 1e9]])


def _sorted_children(parent: Figure | Axes) -> list[Artist]:
    """Return the artists that ``parent`` draws, its patch first, in the order in which Matplotlib draws them."""
    children = [child for child in parent.get_children() if child is not parent.patch and not child.get_animated()]
    framed = True
    if isinstance(parent, Axes):
        framed = parent.axison and parent.get_frame_on()
        hidden = ((Spine,) if not framed else ()) + ((Axis,) if not parent.axison else ())
        children = [child for child in children if not isinstance(child, hidden)]
    return ([parent.patch] if framed else []) + sorted(children, key=lambda child: child.get_zorder())


def _titles(axes: Axes) -> list[Artist]:
    return [getattr(axes, name, axes.title) for name in ("title", "_left_title", "_right_title")]


def _leaves(parent: Figure | Axes) -> Iterator[tuple[Artist, Axes | None, bool]]:
    """Yield (leaf, its axes, whether it is of a fixed kind) in drawing order, invisible ones left out."""
    axes = parent if isinstance(parent, Axes) else None
    fixed = {parent.patch, *(_titles(axes) if axes else parent.texts)}
    for child in _sorted_children(parent):
        if not child.get_visible():
            continue
        if isinstance(child, Axes):
            yield from _leaves(child)
        elif isinstance(child, Axis):
            for tick in child._update_ticks():  # type: ignore[attr-defined]
                if tick.get_visible():
                    for part in (tick.gridline, tick.tick1line, tick.tick2line, tick.label1, tick.label2):
                        yield part, axes, True
            yield child.label, axes, True
            yield child.offsetText, axes, True
        else:
            yield child, axes, child in fixed or isinstance(child, Spine)


def _extent(leaf: Artist, owner: Axes | None, fixed: bool, renderer: Any) -> Bbox:
    """Return a box in pixels that surely holds all that ``leaf`` paints, now and until the background is renewed."""
    box, margin = _EVERYWHERE, _CLIP_MARGIN
    if fixed:
        reach = leaf.get_markersize() * renderer.dpi / 72 if isinstance(leaf, Line2D) else 0.0
        box, margin = leaf.get_window_extent(renderer), _MARGIN + reach
    elif isinstance(leaf, Legend):
        now = leaf.get_window_extent(renderer)
        if owner is not None and np.allclose(Bbox.union([now, owner.bbox]).bounds, owner.bbox.bounds):
            box = owner.bbox
    elif leaf.get_clip_on():
        box = leaf.get_clip_box() or _EVERYWHERE
    return Bbox(box.get_points()).padded(margin)


def _painted(leaf: Artist, renderer: Any) -> Bbox | None:
    """Paint ``leaf`` alone and return the box of its pixels, None if there are none: slower than a guess, but exact."""
    renderer.clear()
    leaf.draw(renderer)
    marked = np.asarray(renderer.buffer_rgba())[::-1, :, 3] > 0  # Agg counts rows from the top, a Bbox from below
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    return Bbox([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]) if rows.size else None


class Redraw:
    """Keeps the picture of one Agg figure up to date; see the module's text for how.

    Args:
        figure: a figure made without pyplot. A layout engine runs once and is then switched off, so that the frame
            stands still. Figures with subfigures, inset, polar or 3-D axes are drawn in full each time. A tick
            formatter must depend on the tick alone: a change in what else it reads cannot be seen from here.
    """

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.canvas = FigureCanvasAgg(figure)
        self.canvas.draw()
        figure.set_layout_engine("none")
        self.full_draws = 0
        self._signature: list[Any] = []
        self._forget()
        self.draw()
        self.draw()

    def draw(self) -> None:
        """Bring the picture up to date: over the kept background where that is safe, in full where it is not."""
        signature = self._read_signature()
        changed = signature != self._signature or any(artist.stale for artist in self._watched)
        if changed or self._background is None:
            self.canvas.draw()
            self.full_draws += 1
            self._forget()
            self._signature = self._read_signature()
            # Limits that move at every step would make a new background each time in vain: wait for a quiet step.
            if not changed:
                self._keep_background()
        else:
            self.canvas.restore_region(self._background)
            renderer = self.canvas.get_renderer()
            for leaf in self.redrawn:
                leaf.draw(renderer)
        for artist in self._watched:
            artist.stale = False

    def pixels(self) -> np.ndarray:
        """Return a copy of the picture as last drawn, (height, width, 4) uint8."""
        return np.array(self.canvas.buffer_rgba())

    def full_draw(self) -> np.ndarray:
        """Draw everything from scratch and return its pixels, the judge of ``pixels``."""
        self.canvas.draw()
        full = self.pixels()
        self._forget()
        return full

    def _forget(self) -> None:
        self._background: Any = None
        self.redrawn: list[Artist] = []
        self._watched: list[Artist] = list(self._frame())

    def _frame(self) -> Iterator[Artist]:
        """Yield every artist whose change must be noticed: the frame of the figure and all that hangs on it."""
        for owner in (self.figure, *self.figure.axes):
            for child in owner.get_children():
                if isinstance(child, Axis | Spine | Legend):
                    yield from (part for part in child.findobj() if not isinstance(part, Axis))
        yield from (self.figure.patch, *self.figure.texts)
        for axes in self.figure.axes:
            yield from (axes.patch, *_titles(axes))

    def _read_signature(self) -> list[Any]:
        """Return what decides, beside the artists' own marks, whether the background still holds."""
        figure = self.figure
        found: list[Any] = [figure.dpi, *figure.get_size_inches()]
        for owner in (figure, *figure.axes):
            for child in owner.get_children():
                clip = child.get_clip_box() if child.get_clip_on() else None
                found += [child, child.get_zorder(), None if clip is None else clip.bounds]
        for axes in figure.axes:
            found += [axes.get_visible(), axes.axison, axes.get_frame_on(), axes.get_xscale(), axes.get_yscale()]
            found += [axes.get_aspect(), axes.get_box_aspect(), axes.get_anchor(), axes.get_adjustable()]
            found += [*axes.viewLim.get_points().ravel(), *axes.bbox.bounds]
            for axis in (axes.xaxis, axes.yaxis):
                # In place of its own mark, which limits leave on it that are set to what they were.
                found += [axis.get_visible(), axis.get_major_locator(), axis.get_major_formatter()]
                found += [axis.get_minor_locator(), axis.get_minor_formatter(), *axis.majorTicks, *axis.minorTicks]
        return found

    def _keep_background(self) -> None:
        """Right after a full draw, paint the leaves that may lie below all others, and keep that as background."""
        plain = all(type(axes) is Axes and not axes.child_axes for axes in self.figure.axes)
        if self.figure.subfigs or not plain or not hasattr(Axis, "_update_ticks"):
            return
        renderer = self.canvas.get_renderer()
        below: list[Artist] = []
        taken: dict[tuple[float, ...], Bbox] = {}
        picture = self.pixels()

        def free(extent: Bbox) -> bool:
            return not any(extent.overlaps(other) for other in taken.values())

        for leaf, owner, fixed in _leaves(self.figure):
            if fixed and not leaf.get_visible():
                continue
            extent = _extent(leaf, owner, fixed, renderer)
            if fixed and not free(extent):
                painted = _painted(leaf, renderer)
                if painted is None:
                    continue
                extent = painted
            if fixed and free(extent):
                below.append(leaf)
            else:
                taken[tuple(extent.extents)] = extent
                self.redrawn.append(leaf)
        renderer.clear()
        for leaf in below:
            leaf.draw(renderer)
        self._background = self.canvas.copy_from_bbox(self.figure.bbox)
        np.asarray(self.canvas.buffer_rgba())[:] = picture
