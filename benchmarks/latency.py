"""From a key press to the new picture: every slider of every experiment, in JupyterLab and Chromium.

Run by hand, on a quiet machine with Chromium, from the checkout::

    python3 course.py test tests/test_offline.py      # once: makes .venv, with Playwright
    .venv/bin/python benchmarks/latency.py [moves of each slider, 5 without] [numbers of notebooks]

To a copy of each notebook two cells are added for each experiment, with the same sliders. The *floor*: its picture is
replaced by another one that lies ready, so it holds all that is not ours, the browser, the server and two messages.
The *twin*: ``interact`` with the inline backend calls the same update and shows the same figure, with the layout that
``figure`` gives it, but kept and not made anew, so it is faster than what one would write. The clock runs in the page,
from the key's event to the frame after the new picture is decoded. Moves are a third of a second apart, and all count.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import test_browser as browser  # noqa: E402

import course  # noqa: E402
import notebook_tools as tools  # noqa: E402

KINDS = ("experiment", "floor", "twin")
BELOW = """
import itertools
import ipywidgets
from gm_utils.plotting import live_png
%matplotlib inline

def _sliders(live):
    for name, control in live._controls.items():
        widget, traits = control.widget, ("min", "max", "step", "options", "value", "description")
        yield name, type(widget)(**{key: getattr(widget, key) for key in traits if widget.has_trait(key)})

def _floor(live):
    pixels = live.pixels()
    pixels[..., :3] = 255 - pixels[..., :3]
    ready = itertools.cycle([live_png(pixels), live._image.value])
    image = ipywidgets.Image(format="png", value=live._image.value, width=live._image.width, height=live._image.height)
    sliders = list(dict(_sliders(live)).values())
    for slider in sliders:
        slider.observe(lambda change: setattr(image, "value", next(ready)), names="value")
    return ipywidgets.VBox([*sliders, image])

def _twin(live):
    fig = live._redraw.figure
    def move(**values):
        readout = live._update(**values)
        fig.set_layout_engine("constrained")
        display(fig)
        fig.set_layout_engine("none")
        print(*(f"{name} = {number:.4g}" for name, number in readout.items()), sep=", ")
    ipywidgets.interact(move, **dict(_sliders(live)))
    for _ in range(3):
        live.set()  # as it was before the twin touched the figure
"""
# A promise of the milliseconds from the next key to the next picture in this cell, null if there is none.
CLOCK = """cell => {
    const pictures = () => [...cell.querySelectorAll("img.widget-image, .widget-output img")];
    const before = new Set(pictures().map(image => image.src));
    window.clocked = new Promise(resolve => {
        let pressed;
        cell.addEventListener("keydown", event => { pressed = event.timeStamp; }, {once: true, capture: true});
        const observer = new MutationObserver(async () => {
            const image = pictures().find(image => image.src && !before.has(image.src));
            if (!image) return;
            observer.disconnect();
            await image.decode();
            requestAnimationFrame(() => resolve(performance.now() - pressed));
        });
        observer.observe(cell, {subtree: true, childList: true, attributes: true, attributeFilter: ["src"]});
        setTimeout(() => { observer.disconnect(); resolve(null); }, 3000);
    });
}"""


def with_rivals(path: Path) -> tuple[Any, dict[str, dict[str, int]]]:
    """Return a notebook with a floor and a twin for each experiment, and in which code cell each of them is."""
    notebook = tools.read(path)
    places: dict[str, dict[str, int]] = {}
    for place, cell in enumerate(tools.code_cells(notebook)):
        places |= {name: {"experiment": place} for name in re.findall(r"(?m)^(\w+) = experiment\(", cell.source)}
    sources = [BELOW]
    for name, found in places.items():
        for kind in KINDS[1:]:
            found[kind] = len(tools.code_cells(notebook)) + len(sources)
            sources.append(f"_{kind}({name})")
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in sources]
    return notebook, places


def clocked(page: Any, cell: Any, moves: int) -> list[float]:
    """Press arrow keys on each slider of a cell, to its farther end and back; return milliseconds to the picture."""
    times = []
    for handle in cell.locator(".noUi-handle").all():
        handle.focus()
        key, back = browser.there_and_back(handle)
        for _ in range(moves):
            end = handle.get_attribute("aria-valuemax" if key == "ArrowRight" else "aria-valuemin")
            if handle.get_attribute("aria-valuenow") == end:
                key, back = back, key
            cell.evaluate(CLOCK)
            page.keyboard.press(key)
            time = page.evaluate("() => window.clocked")
            page.wait_for_timeout(333)
            if time is not None:  # a control may leave the picture as it is
                times.append(time)
    return times


def row(name: str, times: dict[str, list[float]]) -> str:
    """Return a line of the table."""
    middle = {kind: float(np.median(found)) for kind, found in times.items()}
    cells = [f"{middle[kind]:7.0f} {np.percentile(times[kind], 95):5.0f}" for kind in KINDS]
    above, ratio = middle["experiment"] - middle["floor"], middle["twin"] / middle["experiment"]
    missed = "" if above <= 60 and ratio >= 2 else "  MISSED"
    return f"{name:<18} {len(times['experiment']):5} {' '.join(cells)} {above:7.0f} {ratio:6.1f}{missed}"


def main(moves: int, numbers: Iterable[str]) -> None:
    """Measure and print the table."""
    os.environ |= course.with_compilation_cache({}, ROOT / ".jax_cache")
    print(f"{'ms: median, 95 %':<18} {'moves':>5} {'ours':>13} {'floor':>13} {'twin':>13} {'above':>7} {'ratio':>6}")
    every: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        with browser.jupyter_lab(home, browser.SETTINGS) as address:
            for path in tools.QUESTIONS:
                if numbers and path.name[:2] not in numbers:
                    continue
                notebook, places = with_rivals(path)
                nbformat.write(notebook, home / "notebooks" / path.name)
                with browser.chromium(home) as page:
                    browser.open_notebook(page, address(path.name))
                    browser.run_all(page, 2 * len(places))
                    if words := browser.complaints(page):
                        raise SystemExit(f"{path.stem}: {words}")
                    for name, found in places.items():
                        cells = {kind: page.locator(".jp-CodeCell").nth(place) for kind, place in found.items()}
                        times = {kind: clocked(page, cell, moves) for kind, cell in cells.items()}
                        if not times["experiment"]:
                            continue  # it has choices only
                        print(row(f"{path.name[:2]} {name}", times), flush=True)
                        for kind in KINDS:
                            every[kind] += times[kind]
    print(row("all", every))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:])
