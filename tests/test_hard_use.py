"""Careless readers and unkind machines: cells out of order, real interrupts, two kernels at once, odd homes."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

import course
import notebook_tools as tools

posix = pytest.mark.skipif(os.name == "nt", reason="needs signals, users and modes of a POSIX system")
NOTEBOOKS = sorted(tools.FOLDER.glob("*.ipynb"))


class Kernel:
    """A fresh kernel in a folder, driven as a front end drives it."""

    def __init__(self, folder):
        self.manager = KernelManager()
        self.manager.start_kernel(cwd=str(folder), extra_arguments=["--log-level=40"])
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(60)
        self.pid = self.manager.provisioner.pid

    def run(self, source, watch=lambda content: None):
        """Run a cell; return its error, None if there is none, and the text that it printed on each stream."""
        printed, error = {"stdout": "", "stderr": ""}, None

        def look(message):
            nonlocal error
            content = message["content"]
            if message["msg_type"] == "error":
                error = content
            elif message["msg_type"] == "stream":
                printed[content["name"]] += content["text"]
                watch(content)

        self.client.execute_interactive(source, output_hook=look, timeout=600, allow_stdin=False)
        return error, SimpleNamespace(**printed)

    def move(self, comm, value):
        """Move a slider as a browser does, and wait until the kernel is idle again."""
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self.client.shell_channel.send(message)
        while True:
            told = self.client.get_iopub_msg(timeout=600)
            ours = told["parent_header"].get("msg_id") == message["header"]["msg_id"]
            if ours and told["content"].get("execution_state") == "idle":
                return

    def stop(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path):
    kernel = Kernel(tmp_path)
    yield kernel
    kernel.stop()


# Cells out of order

ADVICE = "run the cells above first (in JupyterLab: Run > Run All Above Selected Cell)"


def test_any_cell_of_a_restarted_kernel_works_or_says_what_to_do(kernel):
    kernel.run("%xmode Plain\nimport builtins\nbuiltins.at_start = dict(globals())")
    needing = 0
    for path in NOTEBOOKS:
        for cell in tools.code_cells(tools.read(path))[1:]:
            kernel.run("globals().clear()\nglobals().update(at_start)")
            error, printed = kernel.run(cell.source)
            if error is not None:
                needing += 1
                assert error["ename"] == "NameError", (path.stem, cell.id)
                name = error["evalue"].split("'")[1]
                assert printed.stderr.startswith(f"If a cell further up sets `{name}`"), (path.stem, cell.id)
                assert printed.stderr.endswith(f"{ADVICE}.\n")
    assert needing > 300


def test_the_reader_s_own_errors_stay_as_they_are(kernel):
    kernel.run("import gm_utils.order, math")
    seen = []
    for _ in range(2):
        error, printed = kernel.run("def area(r):\n    return pie * r\narea(2)")
        assert (error["ename"], error["evalue"]) == ("NameError", "name 'pie' is not defined")
        seen.append((re.sub(r"In\[\d+\]", "In[]", "".join(error["traceback"])), "`pie`" in printed.stderr))
        kernel.run("get_ipython().events.unregister('post_run_cell', gm_utils.order.advise)")
    assert seen == [(seen[0][0], True), (seen[0][0], False)]
    kernel.run("get_ipython().events.register('post_run_cell', gm_utils.order.advise)")
    for source, name in (
        ("math.sqrt(-1)", "ValueError"),
        ("def f():\n    x += 1\nf()", "UnboundLocalError"),
        ("import types\nlibrary = types.ModuleType('library')\n"
         "exec('def look(): return nothing', library.__dict__)\nlibrary.look()", "NameError"),
        ("raise NameError('of my own')", "NameError"),
        ("1 +", "SyntaxError"),
    ):  # fmt: skip
        error, printed = kernel.run(source)
        assert error["ename"] == name
        assert printed.stderr == ""


# One page, run twice; one page, run in two kernels


def shown(page):
    """Return what two runs of a page must share."""
    stripped = course.strip(page)
    return {
        cell.id: [[output.get("text", ""), output.get("data", {})] for output in cell.outputs]
        for cell in tools.code_cells(stripped)
        if "timing" not in cell.metadata.get("tags", [])
    }


class TestTwoKernels:
    """In a class, which the other process can take."""

    @pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
    def test_two_kernels_of_a_notebook_at_once_show_the_same_page(self, path, tmp_path):
        """They share the folder, the profile, the compilation cache and two cores; the path up to Further is enough."""
        pages = [tools.read(path) for _ in range(2)]
        for page in pages:
            page.cells = tools.core(page)
        options = {"timeout": 600, "kernel_name": "python3", "resources": {"metadata": {"path": str(tmp_path)}}}

        async def both():
            await asyncio.gather(*(NotebookClient(page, **options).async_execute() for page in pages))

        asyncio.run(both())
        assert [course.problems_in(page) for page in pages] == [[], []]
        first, second = map(shown, pages)
        assert any(first.values())
        assert first == second
        assert list(tmp_path.iterdir()) == []


# Interrupts

TRAINING = """
import jax, numpy as np, optax
from flax import nnx
from gm_utils import loop
from gm_utils.data import banana
from gm_utils.flows import MAF
from gm_utils.training import fit

loop.BAR_AFTER_SECONDS = 0.0
x = banana.sample(jax.random.key(0), 2000)
adam = optax.adam(1e-3)

def loss(model, batch):
    return -model.log_prob(batch).mean()

def start():
    model = MAF(2, layers=2, hidden=(16,), rngs=nnx.Rngs(0))
    return model, nnx.Optimizer(model, adam, wrt=nnx.Param)

def train(model, optimizer, steps):
    fit(model, loss, x, key=jax.random.key(1), steps=steps, batch_size=256, optimizer=optimizer)

model, optimizer = start()
before = float(loss(model, x))
"""
COMPARED = """
twin, fresh = start()
train(twin, fresh, int(optimizer.step[...]))
pairs = zip(*(jax.tree.leaves(nnx.state(one, nnx.Param)) for one in (model, twin)), strict=True)
print(all(np.array_equal(a, b) for a, b in pairs), float(loss(model, x)) < before)
"""


@posix
def test_a_model_whose_training_was_interrupted_is_that_of_the_steps_it_made(kernel):
    """The signal comes while the compiled loop runs; afterwards the same number of steps in one go gives the same."""
    assert kernel.run(TRAINING)[0] is None
    made = [0]
    for delay in (0.03, 0.11, 0.2, 0.37):
        timers = []

        def interrupt_soon(content, delay=delay, timers=timers):
            if "step" in content["text"] and not timers:
                timers.append(threading.Timer(delay, os.kill, (kernel.pid, signal.SIGINT)))
                timers[0].start()

        error, _ = kernel.run("train(model, optimizer, 10**6)", interrupt_soon)
        assert error["ename"] == "KeyboardInterrupt"
        error, printed = kernel.run("print(int(optimizer.step[...]))")
        assert error is None
        made.append(int(printed.stdout))
    assert made == sorted(set(made))
    error, printed = kernel.run(COMPARED)
    assert error is None
    assert printed.stdout.split()[-2:] == ["True", "True"]


# Memory

LIVE = """
import numpy as np
from gm_utils.experiment import experiment
from gm_utils.plotting import figure

fig, axes = figure(size=(4, 2))
(line,) = axes.plot(np.arange(100), np.arange(100))
axes.set(ylim=(0, 20))

drawn = 0

def update(height):
    global drawn
    drawn += 1
    line.set_ydata(np.full(100, height))
    axes.set(title="drawn in full, with text" if height == 20 else "")
    return {"floor": height}

live = experiment(fig, update, alt="A line.", height=(0, 20, 1, 10))
live
"""


def test_a_thousand_moves_of_a_slider_leave_the_kernel_as_large_as_it_was(kernel):
    assert kernel.run(LIVE)[0] is None
    comm = kernel.run("print(live._controls['height'].widget.comm.comm_id)")[1].stdout.strip()

    def drive(moves):
        for move in range(moves):
            time.sleep(0.006)  # longer than a rush: every move is drawn by itself
            kernel.move(comm, move % 21)
        return psutil.Process(kernel.pid).memory_info().rss

    before = drive(100)
    grown = drive(1000) - before
    assert int(kernel.run("print(drawn)")[1].stdout) == 1 + 100 + 1000
    assert grown < 20e6


# Places that may only be read


@contextlib.contextmanager
def nobody():
    """Root may write anywhere: be another user for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def classroom(monkeypatch):
    """A checkout that its reader may read, and nothing more; the environment is there already."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copytree(tools.FOLDER, place / "notebooks", ignore=shutil.ignore_patterns(".*"))
        shutil.copy(tools.ROOT / "pyproject.toml", place)
        for path in (place / "notebooks").iterdir():
            path.chmod(0o444)
        (place / "notebooks").chmod(0o555)
        place.chmod(0o555)
        monkeypatch.setattr(course, "ROOT", place)
        monkeypatch.setattr(course, "environment", lambda lane, extras: Path(sys.executable))
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        yield place
        place.chmod(0o755)
        (place / "notebooks").chmod(0o755)


@posix
@pytest.mark.parametrize(
    ("words", "where"),
    [("lab", "work"), ("reset", "work"), ("run --commit", "notebooks"), ("run --out out", "out"), ("colab", "dist"),
     ("handout", "handouts"), ("sheet", "dist")],
)  # fmt: skip
def test_a_place_that_may_not_be_written_gets_one_sentence(classroom, words, where, monkeypatch, capsys):
    monkeypatch.chdir(classroom)
    with nobody():
        assert course.main(words.split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"course.py: no access to {where if where == 'out' else classroom / where}")
    assert "copy the course to a folder of your own" in line


@posix
def test_read_only_notebooks_become_copies_that_can_be_written_and_no_cache_is_no_obstacle(classroom, monkeypatch):
    opened = []
    monkeypatch.setattr(course, "hand_over", lambda command, folder, variables: opened.append((folder, variables)) or 0)
    classroom.chmod(0o755)
    (classroom / "work").mkdir(mode=0o777)
    (classroom / "work").chmod(0o777)
    classroom.chmod(0o555)
    with nobody():
        assert course.main(["lab"]) == 0
        for copy in (classroom / "work").glob("*.ipynb"):
            assert copy.read_bytes() == (classroom / "notebooks" / copy.name).read_bytes()
            with copy.open("a") as file:
                file.write("\n")
    assert len(list((classroom / "work").glob("*.ipynb"))) == len(NOTEBOOKS)
    ((folder, variables),) = opened
    assert folder == classroom / "work"
    assert "JAX_COMPILATION_CACHE_DIR" not in variables


# A home with a name that is not plain


def make(folder, interpreter):
    """Make an environment as ``course.create`` does where there is no uv, but in a second: without pip."""
    assert course.answer([interpreter, "-m", "venv", "--without-pip", folder]) == ""


def fill(python):
    """Give a new environment the packages of this one, and the checkout beside it, without installing anything."""
    folder = Path(course.answer([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]))
    for name, place in (("borrowed", sysconfig.get_paths()["purelib"]), ("checkout", course.ROOT)):
        (folder / f"{name}.pth").write_text(f"{place}\n", encoding="utf-8")
    (folder / "single.py").write_text("")
    return True


@pytest.fixture
def guest(tmp_path, monkeypatch):
    """A checkout with an environment of its own, in a home whose name has spaces and letters beyond ASCII."""
    home = tmp_path / "Zoë de l'Île 学"
    place = home / "mon cours"
    shutil.copytree(tools.ROOT / "gm_utils", place / "gm_utils", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("course.py", "pyproject.toml", "requirements.txt"):
        shutil.copy(tools.ROOT / name, place)
    last = "import jax, pathlib\nprint(jax.jit(lambda x: 2 * x + 1)(3.0), pathlib.Path.home().name, gm_utils.__file__)"
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in (course.setup_block(""), last)])
    (place / "notebooks").mkdir()
    nbformat.write(page, place / "notebooks" / "01_é.ipynb")
    for name in [name for name in os.environ if name.startswith(("JUPYTER", "IPYTHON", "XDG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(course, "ROOT", place)
    monkeypatch.setattr(course, "create", make)
    monkeypatch.setattr(course, "install", lambda python, what: fill(python))
    course.environment("default", {"lab"})
    return place


def call(place, *words):
    command = [sys.executable, place / "course.py", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, cwd=place.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def run_of(place):
    """Run the checkout's one notebook; return the row of the table, and what the last cell printed."""
    row = call(place, "run", "--out", "executed notebooks")[-1]
    (path,) = (place.parent / "executed notebooks").iterdir()
    return row, nbformat.read(path, as_version=4).cells[-1].outputs[0]["text"]


def files_of(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_a_home_with_spaces_and_letters_beyond_ascii(guest):
    before = files_of(guest / "notebooks")
    row, printed = run_of(guest)
    assert row.startswith("01_é ")
    assert row.endswith("  ok")
    assert printed == f"7.0 {guest.parent.name} {guest / 'gm_utils' / '__init__.py'}\n"
    assert any((guest / ".jax_cache").iterdir())
    assert files_of(guest / "notebooks") == before
    (version,) = call(guest, "lab", "--version")
    assert version[0].isdigit()
    assert (guest / "work" / "01_é.ipynb").read_bytes() == (guest / "notebooks" / "01_é.ipynb").read_bytes()


def test_a_cache_of_jax_that_cannot_be_written_costs_no_more_than_time(guest):
    (guest / ".jax_cache").write_text("in the way")
    row, printed = run_of(guest)
    assert row.endswith("  ok"), "nothing on stderr either"
    assert printed.startswith("7.0 ")
    assert (guest / ".jax_cache").read_text() == "in the way"


@posix
@pytest.mark.parametrize("lost", ["bin/python", "pyvenv.cfg", "lib", "single.py", "borrowed.pth"])
def test_an_environment_that_has_lost_a_part_is_made_anew(guest, lost):
    venv = guest / ".venv"
    begun = (venv / course.STAMP).stat().st_mtime_ns
    course.environment("default", {"lab"})
    assert (venv / course.STAMP).stat().st_mtime_ns == begun
    (part,) = [venv / lost] if os.path.lexists(venv / lost) else venv.glob(f"lib/python*/site-packages/{lost}")
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    python = course.environment("default", {"lab"})
    assert (venv / course.STAMP).stat().st_mtime_ns > begun
    assert course.answer([python, "-c", "import numpy, single"]) == ""


def test_an_environment_half_removed_is_not_trusted(guest, monkeypatch):
    pins, removed = guest / "requirements.txt", []

    def cut_short(folder):
        removed.append(folder)
        raise KeyboardInterrupt

    text = pins.read_text(encoding="utf-8")
    pins.write_text(text + "# changed\n", encoding="utf-8")
    with monkeypatch.context() as stopped:
        stopped.setattr(course.shutil, "rmtree", cut_short)
        assert course.main(["lab"]) == 130
    pins.write_text(text, encoding="utf-8")
    assert removed == [guest / ".venv"]
    lane = course.LANES["default"]
    version = "{}.{}".format(*sys.version_info[:2])
    assert course.installed(guest / ".venv", course.digest_of(lane, guest, version)) is None
