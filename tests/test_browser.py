"""The notebooks as a reader meets them: in JupyterLab, in a real browser, moved by the keyboard."""

import contextlib
import importlib.util
import json
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import time

import nbformat
import pytest

import notebook_tools as tools

NEEDED = [name for name in ("jupyterlab", "playwright") if importlib.util.find_spec(name) is None]
if NEEDED:
    pytest.skip(f"not installed: {', '.join(NEEDED)}", allow_module_level=True)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
if BROWSER is None:
    pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH", allow_module_level=True)

from playwright.sync_api import expect, sync_playwright  # noqa: E402

NUMBERS = {path.name[:2]: path for path in tools.QUESTIONS}
# Off: what draws cells late, and what asks the network for news.
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
OPTIONS = ["--no-sandbox", "--no-first-run", "--disable-dev-shm-usage", "--no-proxy-server", *QUIET]
SECONDS = 1000  # milliseconds, Playwright's unit
PATIENCE = 600 * SECONDS  # for a whole notebook, on a machine that is busy with other tests


def jupyter_variables(home):
    """Return the variables with which Jupyter and its kernels leave the user's own folders alone."""
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    return os.environ | {"HOME": str(home)} | {name: str(home / folder) for name, folder in folders.items()}


@contextlib.contextmanager
def jupyter_lab(home, settings):
    """Serve the folder ``home/notebooks`` on a free port of this machine; yield a function that makes addresses."""
    (home / "notebooks").mkdir()
    for name, values in settings.items():
        file = home / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    token = secrets.token_hex(16)
    ours = {"ip": "127.0.0.1", "port": 0, "root_dir": home / "notebooks", "terminals_enabled": False}
    options = [f"--ServerApp.{name}={value}" for name, value in ours.items()]
    options += [f"--IdentityProvider.token={token}", "--LabApp.extension_manager=readonly"]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *options]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=jupyter_variables(home), stdout=log, stderr=log)
    try:
        told = home / "runtime" / f"jpserver-{server.pid}.json"
        patience = time.monotonic() + 60
        while not told.exists() and server.poll() is None and time.monotonic() < patience:
            time.sleep(0.1)
        if not told.exists():
            raise RuntimeError((home / "log").read_text())
        port = json.loads(told.read_text())["port"]
        yield lambda notebook: f"http://127.0.0.1:{port}/lab/tree/{notebook}?reset&token={token}"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextlib.contextmanager
def chromium(home, **options):
    """Start the browser with a window of its own; yield a page."""
    with sync_playwright() as playwright:
        variables = os.environ | {"HOME": str(home)}
        browser = playwright.chromium.launch(executable_path=BROWSER, args=OPTIONS, env=variables)
        try:
            page = browser.new_page(**{"viewport": {"width": 1280, "height": 4000}} | options)
            page.set_default_timeout(60 * SECONDS)
            yield page
        finally:
            browser.close()


def open_notebook(page, address):
    page.goto(address)
    # The notebook's own sign says "idle" before the kernel is connected; the status bar does not.
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=60 * SECONDS)


def run_all(page, live):
    """Run all cells and wait until ``live`` experiments have their views and no cell is left to run."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(page.locator(".jp-CodeCell .widget-image")).to_have_count(live, timeout=PATIENCE)
    expect(page.locator(".jp-InputPrompt", has_text="[*]")).to_have_count(0, timeout=PATIENCE)


def complaints(page):
    """Return every word of trouble on the page."""
    places = (
        ".jp-RenderedText[data-mime-type*=stderr]",
        ".jp-RenderedText[data-mime-type*=error]",
        ".jp-Notebook [role=alert]",
        ".jp-Notebook :text('Error displaying widget')",
        ".jp-Notebook :text('Error creating widget')",
    )
    return [words for place in places for words in page.locator(place).all_inner_texts() if words]


class View:
    """One experiment on the page."""

    def __init__(self, cell):
        self.page, self.cell = cell.page, cell
        self.image = cell.locator("img.widget-image")
        self.readout = cell.locator("[role=status]")

    def picture(self):
        return self.image.get_attribute("src")

    def wait_for_another(self, picture):
        expect(self.image).not_to_have_attribute("src", picture, timeout=20 * SECONDS)

    def decoded(self):
        """Return the picture's pixels as the browser decodes them, in a short form."""
        return self.image.evaluate(
            """async image => {
                await image.decode();
                const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
                const context = canvas.getContext("2d");
                context.drawImage(image, 0, 0);
                const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
                let hash = 0;
                for (const byte of pixels) hash = (31 * hash + byte) | 0;
                return `${canvas.width}x${canvas.height}:${hash}`;
            }"""
        )


def there_and_back(handle):
    """Return the arrow key that a slider can follow, and the one that leads back."""
    low, now = (float(handle.get_attribute(f"aria-value{which}")) for which in ("min", "now"))
    return ("ArrowLeft", "ArrowRight") if now > low else ("ArrowRight", "ArrowLeft")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home whose name has spaces and letters beyond ASCII."""
    return tmp_path_factory.mktemp("Zoë de l'Île 学")


@pytest.fixture(scope="module")
def address(home):
    with jupyter_lab(home, SETTINGS) as address:
        yield address


@pytest.fixture(scope="module")
def page(home):
    with chromium(home) as page:
        yield page


@pytest.mark.parametrize("number", NUMBERS)
def test_every_control_moves_picture_and_readout(number, page, address, home):
    source = NUMBERS[number]
    shutil.copy(source, home / "notebooks")
    code = "\n".join(cell.source for cell in tools.code_cells(tools.read(source)))
    experiments = re.findall(r"(?m)^\w+ = experiment\(", code)
    open_notebook(page, address(source.name))
    run_all(page, len(experiments))
    assert complaints(page) == []
    cells = page.locator(".jp-CodeCell").filter(has=page.locator(".widget-image"))
    assert cells.count() == len(experiments)
    for view in map(View, cells.all()):
        controls, words, pixels = 0, view.readout.inner_text(), view.decoded()
        for handle in view.cell.locator(".noUi-handle").all():
            controls += 1
            before = view.picture()
            handle.focus()
            page.keyboard.press(there_and_back(handle)[0])
            view.wait_for_another(before)
        for choice in view.cell.locator("select").all():
            controls += 1
            before = view.picture()
            taken = choice.evaluate("list => list.selectedIndex")
            choice.select_option(index=0 if taken else 1)
            view.wait_for_another(before)
        # A control may leave the numbers as they are; all of them together may not.
        expect(view.readout).not_to_have_text(words, use_inner_text=True, timeout=20 * SECONDS)
        assert view.decoded() != pixels
        assert controls == view.cell.locator(".widget-hbox > *").count() > 0
    assert complaints(page) == []


SMALL = """
import jax, time, numpy as np
from gm_utils.experiment import experiment
from gm_utils.plotting import figure

fig, axes = figure(size=(4, 2))
(line,) = axes.plot([0, 1], [0, 0])
axes.set(ylim=(0, 20))
ramp = jax.jit(lambda height: height * jax.numpy.arange(2))

def update(height):
    time.sleep(0.1)
    if height == 13:
        raise ArithmeticError("no <thirteenth> floor")
    line.set_ydata(np.asarray(ramp(height)))
    return {"floor": height}

experiment(fig, update, alt="A line.", height=(0, 20, 1, 10))
"""


def small_notebook(folder, name, *sources):
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(metadata=kernel, cells=list(map(nbformat.v4.new_code_cell, sources)))
    nbformat.write(notebook, folder / name)


@pytest.fixture
def small(page, address, home):
    small_notebook(home / "notebooks", "small.ipynb", SMALL)
    open_notebook(page, address("small.ipynb"))
    run_all(page, 1)
    return View(page.locator(".jp-CodeCell"))


def test_a_rush_of_keys_ends_at_the_newest_value(small, page):
    start = small.decoded()
    small.cell.locator(".noUi-handle").focus()
    for key, floor in (("ArrowLeft", 4), ("ArrowRight", 10)):
        for _ in range(6):
            page.keyboard.press(key)
        expect(small.readout).to_have_text(f"floor{floor}")
    assert small.decoded() == start
    assert complaints(page) == []


def test_an_error_shows_in_red_and_the_next_good_value_clears_it(small, page):
    small.cell.locator(".noUi-handle").focus()
    for floor in (11, 12):
        page.keyboard.press("ArrowRight")
        expect(small.readout).to_have_text(f"floor{floor}")
    page.keyboard.press("ArrowRight")
    alert = small.cell.locator("[role=alert]")
    expect(alert).to_have_text("ArithmeticError: no <thirteenth> floor")
    assert alert.evaluate("words => getComputedStyle(words).color") == "rgb(179, 38, 30)"
    assert complaints(page) == ["ArithmeticError: no <thirteenth> floor"]
    page.keyboard.press("ArrowRight")
    expect(small.readout).to_have_text("floor14")
    expect(alert).to_have_count(0)
    assert complaints(page) == []


TRAINING = """
import optax
from flax import nnx
from pathlib import Path
from gm_utils.training import fit

def loss(model, batch):
    return (model(batch) ** 2).mean()

print("training", flush=True)
model, key, adam = nnx.Linear(100, 100, rngs=nnx.Rngs(0)), jax.random.key(0), optax.adam(1e-3)
while not Path("enough").exists():
    fit(model, loss, np.ones((100, 100)), key=key, steps=2000, batch_size=50, optimizer=adam, progress=False)
print("trained")
"""
DRAG = 10.0  # seconds


def test_a_slider_dragged_while_a_cell_trains_ends_on_the_newest_value(page, address, home):
    """On its way it meets the value for which the update raises, many times."""
    small_notebook(home / "notebooks", "busy.ipynb", SMALL, TRAINING)
    open_notebook(page, address("busy.ipynb"))
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    cell, training = page.locator(".jp-CodeCell").all()
    small, handle = View(cell), cell.locator(".noUi-handle")
    expect(training.locator(".jp-OutputArea-output")).to_have_text("training\n", timeout=PATIENCE)

    track = cell.locator(".noUi-base").bounding_box()
    left, middle, width = track["x"], track["y"] + track["height"] / 2, track["width"]
    handle.hover()
    page.mouse.down()
    seen, began = set(), time.monotonic()
    while (spent := time.monotonic() - began) < DRAG:
        page.mouse.move(left + width * (0.5 + 0.5 * math.sin(3 * spent)), middle)
        seen.add(small.readout.inner_text())
    page.mouse.move(left + width * 0.8, middle)
    page.mouse.up()
    newest = int(float(handle.get_attribute("aria-valuenow")))
    assert newest == 16
    expect(small.readout).to_have_text(f"floor{newest}", timeout=20 * SECONDS)
    assert len(seen) > 5
    assert training.locator(".jp-InputPrompt").inner_text() == "[*]:"
    assert complaints(page) == []
    picture = small.decoded()

    (home / "notebooks" / "enough").touch()
    expect(training.locator(".jp-OutputArea-output")).to_have_text("training\ntrained\n", timeout=PATIENCE)
    handle.focus()
    for key, floor in (("ArrowLeft", newest - 1), ("ArrowRight", newest)):
        page.keyboard.press(key)
        expect(small.readout).to_have_text(f"floor{floor}")
    assert small.decoded() == picture
    assert complaints(page) == []
