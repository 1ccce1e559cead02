"""Every experiment of the notebooks, moved by the keyboard in two front ends, with a picture of each to look at.

Run by hand on a machine with Chromium and a Python 3.13, from the checkout::

    python3 course.py test tests/test_offline.py      # once: makes .venv, with Playwright
    .venv/bin/python benchmarks/front_ends.py FOLDER [lab | classic] [numbers of notebooks]

``lab`` is JupyterLab 4 with ipywidgets 8.1, in lane default; ``classic`` is the Notebook 6.5.7 with ipywidgets 7.7.1,
in lane colab, the nearest thing to Colab's own page that runs on one's own machine; without a word, both. Each control
of each experiment is moved once by a key. The picture must change each time, the readout by the end, and the page must
hold no word of trouble. FOLDER gets one PNG file for each front end and notebook: its experiments after their moves.
"""

import contextlib
import io
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import test_browser as browser  # noqa: E402
from test_browser import PATIENCE, SECONDS, View, expect  # noqa: E402

import course  # noqa: E402
import notebook_tools as tools  # noqa: E402


class FrontEnd(NamedTuple):
    """How a page is served, run, and read.

    Attributes:
        serve: from a home folder to a context that yields a function, which makes addresses.
        open: waits for the page at an address, with its kernel.
        run_all: runs all cells and waits until so many experiments have their views.
        complaints: every word of trouble on the page.
        cells: where code cells are, with their outputs.
        handle: where the handle of a slider is.
        key: the arrow key that this slider can follow.
        choosing: the keys that move a list of choices, around an arrow. JupyterLab takes an arrow for itself, and goes
            to another cell, unless the list is open.
    """

    serve: Callable[[Path], AbstractContextManager[Callable[[str], str]]]
    open: Callable[[Any, str], None]
    run_all: Callable[[Any, int], None]
    complaints: Callable[[Any], list[str]]
    cells: str
    handle: str
    key: Callable[[Any], str]
    choosing: str


@contextlib.contextmanager
def classic_notebook(home: Path) -> Iterator[Callable[[str], str]]:
    """Serve the folder ``home/notebooks`` with the classic Notebook of lane colab."""
    (home / "notebooks").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    ours = {"ip": "127.0.0.1", "port": port, "token": token, "notebook_dir": home / "notebooks"}
    options = [f"--NotebookApp.{name}={value}" for name, value in ours.items()]
    command = [course.environment("colab", {"lab"}), "-m", "notebook", "--no-browser", "--allow-root", *options]
    variables = browser.jupyter_variables(home) | {"PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1"}
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        patience = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < patience:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5).close()
                break
            time.sleep(0.2)
        else:
            raise RuntimeError((home / "log").read_text())
        yield lambda notebook: f"http://127.0.0.1:{port}/notebooks/{notebook}?token={token}"
    finally:
        server.terminate()
        server.wait(30)


def open_classic(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_function("() => window.Jupyter?.notebook?.kernel?.is_connected()", timeout=60 * SECONDS)
    expect(page.locator("#kernel_indicator_icon")).to_have_class("kernel_idle_icon", timeout=60 * SECONDS)


def run_all_classic(page: Any, live: int) -> None:
    page.locator("#celllink").click()
    page.locator("#run_all_cells").click()
    expect(page.locator(".code_cell img.widget-image")).to_have_count(live, timeout=PATIENCE)
    expect(page.locator(".input_prompt", has_text="[*]")).to_have_count(0, timeout=PATIENCE)


def complaints_in_classic(page: Any) -> list[str]:
    places = [".output_stderr", ".output_error", ".output_area [role=alert]"]
    places += [f"#notebook :text('{words}')" for words in ("Error displaying widget", "Error creating widget")]
    return [words for place in places for words in page.locator(place).all_inner_texts() if words]


FRONT_ENDS = {
    "lab": FrontEnd(
        serve=lambda home: browser.jupyter_lab(home, browser.SETTINGS),
        open=browser.open_notebook,
        run_all=browser.run_all,
        complaints=browser.complaints,
        cells=".jp-CodeCell",
        handle=".noUi-handle",
        key=lambda handle: browser.there_and_back(handle)[0],
        choosing="Space {} Enter",
    ),
    "classic": FrontEnd(
        serve=classic_notebook,
        open=open_classic,
        run_all=run_all_classic,
        complaints=complaints_in_classic,
        cells=".code_cell",
        handle=".ui-slider-handle",
        # How far along it stands, in per cent.
        key=lambda handle: "ArrowLeft" if float(handle.evaluate("it => parseFloat(it.style.left)")) else "ArrowRight",
        choosing="{}",
    ),
}


def move_every_control(front: FrontEnd, view: View) -> int:
    """Move each control of one experiment once, by key, and return how many there are."""
    words, pixels = view.readout.inner_text(), view.decoded()
    handles, choices = view.cell.locator(front.handle).all(), view.cell.locator("select").all()
    for handle in handles:
        before = view.picture()
        handle.focus()
        view.page.keyboard.press(front.key(handle))
        view.wait_for_another(before)
    for choice in choices:
        before = view.picture()
        choice.focus()
        arrow = "ArrowUp" if choice.evaluate("list => list.selectedIndex") else "ArrowDown"
        for key in front.choosing.format(arrow).split():
            view.page.keyboard.press(key)
            view.page.wait_for_timeout(200)  # until the list is open, as a hand would
        view.wait_for_another(before)
    expect(view.readout).not_to_have_text(words, use_inner_text=True, timeout=20 * SECONDS)
    if view.decoded() == pixels:
        raise AssertionError("the picture is the one from the beginning")
    return len(handles) + len(choices)


def stacked(pictures: list[bytes]) -> Image.Image:
    """Return pictures one below the other."""
    images = [Image.open(io.BytesIO(picture)) for picture in pictures]
    sheet = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    return sheet


def main(words: list[str]) -> None:
    """Drive, photograph, and print one line for each notebook."""
    out = Path(words[0])
    out.mkdir(parents=True, exist_ok=True)
    names = [word for word in words[1:] if word in FRONT_ENDS] or list(FRONT_ENDS)
    numbers = [word for word in words[1:] if word not in FRONT_ENDS]
    os.environ |= course.with_compilation_cache({}, ROOT / ".jax_cache")
    for name in names:
        front = FRONT_ENDS[name]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, front.serve(Path(folder)) as address:
            for path in tools.QUESTIONS:
                if numbers and path.name[:2] not in numbers:
                    continue
                shutil.copy(path, Path(folder) / "notebooks")
                sources = [cell.source for cell in tools.code_cells(tools.read(path))]
                live = sum(len(re.findall(r"(?m)^\w+ = experiment\(", source)) for source in sources)
                with browser.chromium(Path(folder)) as page:
                    front.open(page, address(path.name))
                    front.run_all(page, live)
                    cells = page.locator(front.cells).filter(has=page.locator("img.widget-image")).all()
                    controls = sum(move_every_control(front, View(cell)) for cell in cells)
                    stacked([cell.screenshot() for cell in cells]).save(out / f"{name}-{path.stem}.png")
                    trouble = front.complaints(page)
                if len(cells) != live or trouble:
                    raise SystemExit(f"{name}, {path.stem}: {len(cells)} of {live} experiments; {trouble}")
                print(f"{name:<8} {path.stem:<40} {live} experiments, {controls} controls moved", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
