"""The README's film: an experiment of a stored notebook, run in JupyterLab and moved by the keyboard.

Run by hand on a machine with Chromium, from the checkout::

    python3 course.py test tests/test_offline.py     # once: makes .venv, with Playwright
    .venv/bin/python docs/film.py [FILE]             # writes docs/film.webp without FILE

What stands on the page after each key is one frame. The frames follow each other at a pace that suits the eye, not at
the one at which they were taken: benchmarks/latency.py measures how long an answer takes.
"""

import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import test_browser as browser  # noqa: E402

import course  # noqa: E402
import notebook_tools as tools  # noqa: E402

NOTEBOOK = ROOT / "notebooks" / "07_masked_autoregressive_flow.ipynb"
CELL = "live-scrub-show"
# (control, key, how often, milliseconds of each frame, of the last one). A list of choices is opened, moved and closed.
UNSEEN = [("layer", "ArrowLeft", 4, 0, 0)]
SCENES = [
    ("layer", "ArrowRight", 20, 100, 1200),
    ("start", "Space ArrowDown Enter", 1, 0, 800),
    ("layer", "ArrowLeft", 20, 100, 1200),
]
FIRST = 700  # milliseconds of the frame before the first key
MARGIN = 8  # pixels


def shown(place: Any) -> bytes:
    """Return what stands in a place on the page once it has come to rest."""
    last, now = b"", place.screenshot()
    while now != last:
        place.page.wait_for_timeout(150)
        last, now = now, place.screenshot()
    return now


def moved(view: browser.View, control: str, keys: str) -> bytes:
    """Press keys on a control and return the experiment as it then stands."""
    row = view.cell.locator(".widget-hbox > *").filter(has=view.page.get_by_text(control, exact=True))
    before = view.picture()
    row.locator(".noUi-handle, select").focus()
    for key in keys.split():
        view.page.keyboard.press(key)
        if " " in keys:
            view.page.wait_for_timeout(200)  # until the list is open, as a hand would
    view.wait_for_another(before)
    return shown(view.cell.locator(".widget-vbox"))


def frames_of(view: browser.View) -> list[tuple[bytes, int]]:
    """Play the scenes; return each frame with its milliseconds."""
    for control, keys, times, _, _ in UNSEEN:
        for _ in range(times):
            moved(view, control, keys)
    frames = [(shown(view.cell.locator(".widget-vbox")), FIRST)]
    for control, keys, times, pace, rest in SCENES:
        for left in reversed(range(times)):
            frames.append((moved(view, control, keys), pace if left else rest))
    return frames


def main(words: list[str]) -> None:
    """Run the notebook up to the experiment, film it, write the file and say how large it is."""
    out = Path(words[0]) if words else ROOT / "docs" / "film.webp"
    os.environ |= course.with_compilation_cache({}, ROOT / ".jax_cache")
    notebook = tools.read(NOTEBOOK)
    # The cell after an experiment moves it: the film begins where the page does.
    last = next(place for place, cell in enumerate(notebook.cells) if cell.id == CELL)
    notebook.cells = notebook.cells[: last + 1]
    live = sum(len(re.findall(r"(?m)^\w+ = experiment\(", cell.source)) for cell in tools.code_cells(notebook))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        with browser.jupyter_lab(home, browser.SETTINGS) as address, browser.chromium(home) as page:
            nbformat.write(notebook, home / "notebooks" / NOTEBOOK.name)
            browser.open_notebook(page, address(NOTEBOOK.name))
            browser.run_all(page, live)
            filmed = page.locator(".jp-CodeCell").filter(has=page.locator(".widget-image")).last
            frames = frames_of(browser.View(filmed))
            trouble = browser.complaints(page)
    if trouble:
        raise SystemExit(f"words of trouble on the page: {trouble}")
    images = [ImageOps.expand(Image.open(io.BytesIO(picture)).convert("RGB"), MARGIN, "white") for picture, _ in frames]
    spans = [milliseconds for _, milliseconds in frames]
    images[0].save(out, save_all=True, append_images=images[1:], duration=spans, loop=0, lossless=True, method=4)
    size, (width, height) = out.stat().st_size / 1000, images[0].size
    print(f"{out}: {len(frames)} frames, {sum(spans) / 1000:g} s, {width} x {height}, {size:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
