"""Live figures: sliders that answer at once, with the numbers beside the picture.

The author draws a figure once and writes an update that moves its artists and returns numbers:

>>> from gm_utils.plotting import figure
>>> fig, ax = figure()
>>> grid = np.linspace(-3, 3, 100)
>>> (line,) = ax.plot(grid, 0 * grid)
>>> def update(scale):
...     line.set_ydata(np.exp(-(grid**2) / (2 * scale**2)))
...     return {"variance": scale**2}
>>> live = experiment(fig, update, alt="A bell that widens.", scale=(0.5, 3.0, 0.1, 1.0))  # ends a cell, to be shown
>>> live.set(scale=2.0)
>>> live.readout
{'variance': 4.0}
"""

import asyncio
import html
import inspect
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from gm_utils.plotting import live_png, picture_bundle, require_alt
from gm_utils.redraw import Redraw
from gm_utils.validation import numbers, refuse

_PAUSE = 0.06  # seconds from a change that came in a rush to its picture
_RUSH = 0.005  # seconds after a picture within which a change must have waited in a queue
_LOST = 1.0  # seconds after which a planned picture is given up: its event loop has ended


def _as_sent(data: object, subshell: str | None) -> str | None:
    """Leave a move to the thread for which the browser sent it, so that it is answered while a cell runs.

    ipykernel 7.4 asks the comm which thread shall take a message, else the last to write to it: that of the cells.
    """
    return subshell


class _Control:
    """One slider or choice: its widget, and all the values that it can take."""

    def __init__(self, name: str, spec: Any) -> None:
        self.name = name
        label = {"description": name.replace("_", " "), "style": {"description_width": "initial"}}
        layout = {"width": "22em", "max_width": "100%"}
        if isinstance(spec, list) and len(spec) >= 2:
            self.decimals = None
            self.values = spec
            numeric = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in spec)
            kind = ipywidgets.SelectionSlider if numeric else ipywidgets.Dropdown
            options = [(str(choice), choice) for choice in spec]
            self.widget = kind(options=options, value=spec[0], layout=layout, **label)
        elif isinstance(spec, tuple) and len(spec) == 4 and all(isinstance(part, int | float) for part in spec):
            low, high, step, start = spec
            if not (low < high and step > 0 and low <= start <= high):
                raise refuse(f"control {name}", "as (low, high, step, start) with low <= start <= high, step > 0", spec)
            count = round((high - low) / step)
            whole = all(isinstance(part, int) for part in spec)
            decimals = [len(f"{part:.10f}".rstrip("0").split(".")[1]) for part in (low, step)]
            self.decimals = 0 if whole else max(decimals)
            self.values = [low + k * step if whole else round(low + k * step, self.decimals) for k in range(count + 1)]
            for what, part in (("high", high), ("start", start)):
                if not self._on_a_step(part):
                    raise refuse(f"control {name}", f"with {what} - low a whole number of steps", spec)
            kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
            shown = {} if whole else {"readout_format": f".{self.decimals}f"}
            self.widget = kind(value=start, min=low, max=high, step=step, layout=layout, **label, **shown)
        else:
            raise refuse(f"control {name}", "as (low, high, step, start) or a list of two or more choices", spec)
        self.widget.comm._reply_subshell_for = _as_sent

    @property
    def value(self) -> Any:
        """The value that the widget shows, free of the rounding errors of a float slider."""
        value = self.widget.value
        return round(value, self.decimals) if self.decimals else value

    def accept(self, value: Any) -> Any:
        """Return ``value`` after checking that the widget can take it."""
        if self.decimals is None:
            fits, wanted = value in self.values, f"to be one of {self.values}"
        else:
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            fits = number and self._on_a_step(value)
            wanted = f"to lie in [{self.values[0]}, {self.values[-1]}], on a step of {self.widget.step}"
        if not fits:
            raise refuse(self.name, wanted, repr(value))
        return value

    def _on_a_step(self, value: Any) -> bool:
        return bool((np.abs(np.subtract(self.values, value)) <= 1e-9 * (self.values[-1] - self.values[0])).any())


class Experiment:
    """A live figure, in notebooks called ``experiment``: end a cell with it to show it.

    It is not itself a widget, so that a page shows it without a kernel.

    Args:
        figure: drawn once; its layout is frozen here.
        update: called with one keyword for each control; changes artists, returns a dict of floats, the readout.
            Compiled JAX functions in it are warmed by the first call, made here.
        alt: one sentence that says what the picture shows; stands below it, and in place of it where it cannot be seen.
        controls: ``name=(low, high, step, start)`` for a slider (whole numbers give whole numbers), or
            ``name=[choice, ...]`` for a choice, the first one to begin with.

    Attributes:
        readout: the numbers that the last update returned, a dict of floats.
        controls: for each control the list of all values that it can take.

    Raises:
        ValueError: for a control of another form, an update that does not take the controls or does not return
            numbers, or an empty ``alt``. Whatever the first update raises is raised, too.
    """

    def __init__(
        self, figure: Figure, update: Callable[..., Mapping[str, float]], *, alt: str, **controls: Any
    ) -> None:
        if not controls:
            raise refuse("controls", "to be one or more, such as scale=(0.5, 3.0, 0.1, 1.0)", "none")
        self.alt = require_alt(alt)
        self._controls = {name: _Control(name, spec) for name, spec in controls.items()}
        try:
            inspect.signature(update).bind(**self._controls)
        except TypeError as error:
            raise refuse("update", f"to take the controls {', '.join(controls)}", f"one for which: {error}") from None
        self.controls = {name: control.values for name, control in self._controls.items()}
        self._update = update
        self._lock = threading.RLock()
        self._driven = False
        self._planned_until = 0.0
        self._read()
        self._redraw = Redraw(figure)
        self._drawn_at = -1.0
        width, height = self._redraw.canvas.get_width_height()
        shape = {"max_width": "100%", "height": "auto"}
        self._image = ipywidgets.Image(format="png", width=width, height=height, layout=shape)
        self._numbers, self._error = ipywidgets.HTML(), ipywidgets.HTML()
        sliders = ipywidgets.HBox([c.widget for c in self._controls.values()], layout={"flex_flow": "row wrap"})
        words = ipywidgets.HTML(f'<small style="opacity:.75;line-height:1.3;display:block">{html.escape(alt)}</small>')
        self._box = ipywidgets.VBox([sliders, self._image, self._numbers, self._error, words])
        self._show()
        for control in self._controls.values():
            control.widget.observe(self._from_browser, names="value")

    def set(self, **values: Any) -> None:
        """Move controls from Python and draw at once; what the update raises is raised here.

        Raises:
            ValueError: for an unknown control or a value out of its range; nothing is moved then.
        """
        for name in values:
            if name not in self._controls:
                raise refuse("a control", f"among {', '.join(self._controls)}", name)
        accepted = {name: self._controls[name].accept(value) for name, value in values.items()}
        with self._lock:
            self._driven = True
            try:
                for name, value in accepted.items():
                    self._controls[name].widget.value = value
            finally:
                self._driven = False
            try:
                self._draw()
            except Exception as error:
                self._complain(error)
                raise

    def pixels(self) -> np.ndarray:
        """Return the picture as shown, (height, width, 4) uint8."""
        with self._lock:
            return self._redraw.pixels()

    def full_draw(self) -> np.ndarray:
        """Draw the figure from scratch and return its pixels: always equal to ``pixels``."""
        with self._lock:
            return self._redraw.full_draw()

    def _values(self) -> dict[str, Any]:
        return {name: control.value for name, control in self._controls.items()}

    def _read(self) -> None:
        self.readout = numbers("update", "to return a dict of numbers, the readout", self._update(**self._values()))

    def _draw(self) -> None:
        self._read()
        self._redraw.draw()
        self._show()

    def _show(self) -> None:
        cells = "".join(
            f'<span style="display:inline-block;margin:0 2em 0 0"><small>{html.escape(name)}</small><br>'
            f'<b style="font-size:1.3em">{number:.4g}</b></span>'
            for name, number in self.readout.items()
        )
        self._image.value = live_png(self._redraw.pixels())
        self._numbers.value = f'<div role="status">{cells}</div>'
        self._error.value = ""

    def _complain(self, error: Exception) -> None:
        words = html.escape(f"{type(error).__name__}: {error}")
        self._error.value = f'<pre role="alert" style="color:#B3261E;white-space:pre-wrap">{words}</pre>'

    def _from_browser(self, change: object) -> None:
        """Draw at once when idle; in a rush keep the newest values only, and draw a little later.

        May be called in a thread of its own, while a cell runs in another.
        """
        with self._lock:
            now = time.monotonic()
            if self._driven or now < self._planned_until:
                return
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                loop = None
            if loop is None or now - self._drawn_at > _RUSH:
                self._answer()
            else:
                self._planned_until = now + _PAUSE + _LOST
                loop.call_later(_PAUSE, self._answer)

    def _answer(self) -> None:
        with self._lock:
            self._planned_until = 0.0
            try:
                self._draw()
            except Exception as error:
                self._complain(error)
            self._drawn_at = time.monotonic()

    def __repr__(self) -> str:
        values = ", ".join(f"{name} = {value}" for name, value in self._values().items())
        numbers = ", ".join(f"{name} = {number:.4g}" for name, number in self.readout.items())
        return f"Experiment at {values}: {numbers}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = picture_bundle(self.pixels(), self.alt)
        data["text/plain"] = f"{self.alt}\n{self!r}"
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        data["application/vnd.jupyter.widget-view+json"] = view
        return data, metadata


experiment = Experiment
