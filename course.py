#!/usr/bin/env python3
"""The course's one command; it needs Python 3.11 or newer and nothing else.

python3 course.py lab [jupyter options]    make .venv, install, open JupyterLab on your own copies in work/
python3 course.py reset [names]            renew the copies in work/; yours are kept in work/backup/
python3 course.py test [--lane colab | newest] [pytest options]
                                           the whole suite; with a path, pytest on that path alone
python3 course.py run [names] [--cold] [--offline] [--lane LANE] [--out FOLDER | --commit]
                                           execute the notebooks; print seconds and peak memory of each
python3 course.py colab [names] [--check]  write copies for upload to dist/colab/
python3 course.py questions [names]        write gm_utils/questions.toml into the notebooks: questions, marks, answers
python3 course.py handout [names] [--out FOLDER]
                                           write student copies without solutions and model answers to handouts/
python3 course.py sheet [--out FILE]       write one offline page: every formula, with a number computed from it

A name is a notebook's number or the start of its name. `run --commit` stores the outputs in notebooks/.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import copy
import datetime
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

OLDEST = (3, 11)
CHECKED = ("course.py", "gm_utils", "press", "tests", "notebooks", "benchmarks", "docs")
ROOT = Path(__file__).resolve().parent
STAMP = "course-stamp.json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
COMPILED_HELP = "a folder that keeps what JAX compiles for the next command; without it everything is compiled anew"
SETUP_START = "try:\n    import gm_utils"


class Lane(NamedTuple):
    """One set of versions the course runs on.

    Attributes:
        folder: where its environment lives.
        python: the version it wants, or None for the one that runs this script.
        pins: files of exact versions.
        package: whether gm_utils is installed; otherwise it is found through PYTHONPATH, as on a machine without it.
        checks: whether what does not hang on versions belongs to it: style, types, tests marked once.
        warnings: warnings of this lane's own packages, which pytest lets pass.
    """

    folder: str
    python: str | None
    pins: tuple[str, ...]
    package: bool
    checks: bool
    warnings: tuple[str, ...] = ()


LANES = {
    "default": Lane(folder=".venv", python=None, pins=("requirements.txt",), package=True, checks=True),
    "colab": Lane(
        folder=".venv-colab",
        python="3.13",
        pins=("tests/colab-2026-08.txt", "tests/colab-tests.txt"),
        package=False,
        checks=False,
        # jupyter-client 7.4, older than Python 3.13, under nbval.
        warnings=(
            "ignore:datetime.datetime.utcnow:DeprecationWarning",
            "ignore:There is no current event loop:DeprecationWarning",
        ),
    ),
    "newest": Lane(
        folder=".venv-newest", python="3.13", pins=("tests/newest-2026-11.txt",), package=False, checks=False
    ),
}


class Refusal(Exception):
    """Something the reader can put right; its text is the whole message."""


class LaneMissing(Exception):
    """This machine has no Python of the version that a lane wants."""


def old_python(version: tuple[int, ...]) -> str:
    """Return the sentence for a Python that is too old, or an empty one."""
    if tuple(version[:2]) >= OLDEST:
        return ""
    wanted, got = ".".join(map(str, OLDEST)), ".".join(map(str, version[:2]))
    return f"This course needs Python {wanted} or newer, and this is Python {got}: start course.py with a newer one."


# Interpreters and environments


def answer(command: list[Any], *, seconds: int = 60, **options: Any) -> str | None:
    """Return what a command prints, or None if it cannot be started, fails or takes too long."""
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=seconds, check=True, **options
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def version_of(python: Any) -> str | None:
    """Return "major.minor" of an interpreter that starts, with a "t" for a free-threaded one."""
    return answer(
        [
            python,
            "-c",
            "import sys, sysconfig;"
            "print('%d.%d' % sys.version_info[:2] + 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')))",
        ]
    )


def interpreter_places(version: str, home: Path, path: str) -> list[Path]:
    """List the files that may be a Python of this version: PATH first, then where installers put it."""
    digits = version.replace(".", "")
    names = [f"python{version}", f"python{version}.exe", "python3", "python3.exe", "python.exe"]
    places = [Path(folder) / name for folder in path.split(os.pathsep) if folder for name in names]
    patterns = [
        (home, f".pyenv/versions/{version}*/bin/python"),
        (home, f".pyenv/pyenv-win/versions/{version}*/python.exe"),
        (home, f".local/share/uv/python/cpython-{version}*/bin/python{version}"),
        (home, f"AppData/Roaming/uv/python/cpython-{version}*/python.exe"),
        (home, f"AppData/Local/Programs/Python/Python{digits}/python.exe"),
        (Path("/"), f"usr/bin/python{version}"),
        (Path("/"), f"usr/local/bin/python{version}"),
        (Path("/"), f"opt/homebrew/bin/python{version}"),
        (Path("/"), f"opt/python/*{digits}*/bin/python{version}"),
        (Path("/"), f"opt/hostedtoolcache/Python/{version}*/x64/bin/python"),
        (Path("/"), f"Library/Frameworks/Python.framework/Versions/{version}/bin/python{version}"),
    ]
    if os.environ.get("PYENV_ROOT"):
        patterns.insert(0, (Path(os.environ["PYENV_ROOT"]), f"versions/{version}*/bin/python"))
    for folder, pattern in patterns:
        with contextlib.suppress(OSError):
            places += sorted(folder.glob(pattern), reverse=True)
    return list(dict.fromkeys(place for place in places if place.is_file()))


def find_python(version: str, home: Path | None = None, path: str | None = None) -> Path:
    """Return a Python of this version that starts; a file of the right name may be a shim that fails.

    Raises:
        LaneMissing: if there is none.
    """
    path = os.environ.get("PATH", "") if path is None else path
    for place in interpreter_places(version, home or Path.home(), path):
        if version_of(place) == version:
            return place
    raise LaneMissing(f"no Python {version} on PATH or in the usual folders")


def python_of(folder: Path) -> Path:
    """Return where an environment keeps its Python."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def digest_of(lane: Lane, root: Path, version: str) -> str:
    """Return a hash of all that an environment is made from: versions, Python, and the checkout's place."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    needs = [project["project"].get(key) for key in ("dependencies", "optional-dependencies", "requires-python")]
    needs.append(project.get("tool", {}).get("hatch"))  # which files an installation brings along
    text = [json.dumps(needs, sort_keys=True), version, str(root)]
    text += [(root / pins).read_text(encoding="utf-8") for pins in lane.pins]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def contents(folder: Path) -> list[str]:
    """List what stands in an environment, and what in its folder of packages."""
    packages = "Lib/site-packages/*" if os.name == "nt" else "lib/python*/site-packages/*"
    found = [path for pattern in ("[!.]*", packages) for path in folder.glob(pattern)]
    return sorted(path.relative_to(folder).as_posix() for path in found if path.name not in (STAMP, "__pycache__"))


def installed(folder: Path, digest: str) -> set[str] | None:
    """Return the extras in a sound environment, or None if it has to be made anew."""
    try:
        note = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        sound = note["digest"] == digest and set(note["contents"]) <= set(contents(folder))
        extras = set(note["extras"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return extras if sound and version_of(python_of(folder)) else None


def stamp(folder: Path, digest: str, extras: set[str]) -> None:
    """Note in an environment what it was made from and what it holds, once it is complete."""
    note = {"digest": digest, "extras": sorted(extras), "contents": contents(folder)}
    (folder / STAMP).write_text(json.dumps(note), encoding="utf-8")


def remove(folder: Path) -> None:
    """Delete an environment, or whatever else has its name."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        (folder / STAMP).unlink(missing_ok=True)  # first: if this is cut short, the rest must not pass for sound
        shutil.rmtree(folder)


def children_environment() -> dict[str, str]:
    """Return the variables for programs in an environment: its own kernel comes first, nothing is downloaded."""
    variables = {key: value for key, value in os.environ.items() if key not in ("JUPYTER_PATH", "PYTHONHOME")}
    variables.update(JUPYTER_PREFER_ENV_PATH="1", UV_PYTHON_DOWNLOADS="never", PYDEVD_DISABLE_FILE_VALIDATION="1")
    return variables


def create(folder: Path, interpreter: Path) -> None:
    """Make an empty environment with uv, or with the standard library where uv is missing or too old."""
    uv = shutil.which("uv")
    command = [uv, "venv", "--quiet", "--python", interpreter, folder]
    if uv and answer(command, env=children_environment()) is not None:
        return
    if answer([interpreter, "-c", "import venv, ensurepip"]) is None:
        raise Refusal(
            f"{interpreter} cannot make environments: install its venv module "
            "(on Debian and Ubuntu: apt install python3-venv) and try again."
        )
    remove(folder)
    if answer([interpreter, "-m", "venv", folder]) is None:
        raise Refusal(f"{interpreter} -m venv failed: is {folder.parent} writable, with space left?")


def uv_command(python: Path) -> list[str] | None:
    """Return uv as a command: from PATH, or from the environment, put there first where pip can."""
    uv, inside = shutil.which("uv"), [str(python), "-m", "uv"]
    if uv and answer([uv, "--version"]):
        return [uv]
    if not answer([*inside, "--version"]):
        answer([python, "-m", "pip", "install", "--disable-pip-version-check", "uv"], seconds=600)
    return inside if answer([*inside, "--version"]) else None


def install(python: Path, what: list[str]) -> bool:
    """Install with uv; where that fails, with uv trusting the system's certificates; then with pip and its settings."""
    variables = children_environment()
    if sys.dont_write_bytecode:  # else Python keeps what it compiles: each start would take seconds longer
        variables["UV_COMPILE_BYTECODE"] = "1"
    uv = uv_command(python)
    if uv:
        for trust in ({}, {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}):
            command = [*uv, "pip", "install", "--python", str(python), *what]
            if subprocess.call(command, cwd=ROOT, env={**variables, **trust}) == 0:
                return True
            print("That failed; trying another way ...", flush=True)
    if answer([python, "-m", "pip", "--version"]) is None:
        answer([python, "-m", "ensurepip"])
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *what]
    return subprocess.call(command, cwd=ROOT, env=variables) == 0


def environment(name: str, extras: set[str]) -> Path:
    """Return the Python of a lane's environment, made or completed first where needed.

    Raises:
        LaneMissing: if the machine has no Python for this lane.
        Refusal: if it cannot be made.
    """
    lane = LANES[name]
    folder = ROOT / lane.folder
    python = python_of(folder)
    version = lane.python or "{}.{}".format(*sys.version_info[:2])
    digest = digest_of(lane, ROOT, version)
    present = installed(folder, digest)
    if present is not None and extras <= present:
        return python
    wanted = extras | (present or set())
    started = time.monotonic()
    # The base interpreter: this script may itself run in the environment that is about to go.
    own = Path(getattr(sys, "_base_executable", None) or sys.executable)
    if present is None:
        try:
            interpreter = find_python(lane.python) if lane.python else own
        except LaneMissing as missing:
            raise LaneMissing(f"lane {name}: {missing}") from None
        print(f"Making {lane.folder} with Python {version} ...", flush=True)
        try:
            remove(folder)
        except OSError as error:
            raise Refusal(f"{folder} is in use or protected: close what runs from it ({error}).") from None
        create(folder, interpreter)
    (folder / STAMP).unlink(missing_ok=True)
    if lane.package:
        what = ["--editable", f".[{','.join(sorted(wanted))}]"]
        what += [part for pins in lane.pins for part in ("--constraint", pins)]
    else:
        what = [part for pins in lane.pins for part in ("--requirement", pins)]
    if not install(python, what):
        raise Refusal(f"installing into {lane.folder} failed (see above); the first time needs a network connection.")
    stamp(folder, digest, wanted)
    print(f"{lane.folder} is ready after {time.monotonic() - started:.0f} s.", flush=True)
    return python


def with_compilation_cache(variables: dict[str, str], folder: Path) -> dict[str, str]:
    """Point JAX's persistent cache at a folder; left out where the folder cannot be written."""
    if "JAX_COMPILATION_CACHE_DIR" in variables:
        return variables
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return variables
    return {
        **variables,
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def without_compilation_cache(variables: dict[str, str]) -> dict[str, str]:
    """Drop JAX's persistent cache, so that everything is compiled."""
    return {key: value for key, value in variables.items() if key != "JAX_COMPILATION_CACHE_DIR"}


# Notebooks


def select(folder: Path, names: list[str]) -> list[Path]:
    """Return the notebooks whose file names start with one of the names; all of them if there is none.

    Raises:
        Refusal: for a name that fits no notebook.
    """
    every = sorted(folder.glob("*.ipynb"))
    chosen = []
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        stem = stem.zfill(2) if stem.isdecimal() else stem
        fits = [path for path in every if path.stem.startswith(stem)]
        if not fits:
            known = ", ".join(path.stem for path in every) or "none yet"
            raise Refusal(f"no notebook is called {name!r}; there are: {known}")
        chosen += fits
    return list(dict.fromkeys(chosen)) if names else every


def file_hash(path: Path) -> str:
    """Return the hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def working_copies(originals: list[Path], work: Path, *, renew: bool = False) -> list[str]:
    """Bring the reader's copies up to date and return what there is to tell.

    A copy that the reader has changed is never overwritten: it stays, or with ``renew`` it moves to ``backup``.
    """
    work.mkdir(exist_ok=True)
    record = work / ".originals.json"
    try:
        taken = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        taken = {}
    told = []
    for original in originals:
        mine, new = work / original.name, file_hash(original)
        now = file_hash(mine) if mine.exists() else None
        if now is not None and now not in (new, taken.get(original.name)):
            if not renew:
                if taken.get(original.name) != new:
                    told.append(f"{original.stem} has a newer version: `course.py reset` brings it and keeps yours.")
                continue
            told.append(f"yours is kept as {set_aside(mine).relative_to(work.parent)}")
        if now != new:
            shutil.copyfile(original, mine)
        taken[original.name] = new
    record.write_text(json.dumps(taken, indent=1), encoding="utf-8")
    return told


def set_aside(mine: Path) -> Path:
    """Move a file to a dated name in ``backup`` beside it, and return that name."""
    folder = mine.parent / "backup"
    folder.mkdir(exist_ok=True)
    stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
    for extra in ("", *(f"-{number}" for number in range(2, 1000))):
        kept = folder / f"{mine.stem}-{stamp}{extra}{mine.suffix}"
        if not kept.exists():
            return mine.replace(kept)
    raise Refusal(f"{folder} is full of backups of this second")


def text_of(source: Any) -> str:
    """Return a cell's text, which the file format keeps as one string or as a list of lines."""
    return source if isinstance(source, str) else "".join(source)


def problems_in(notebook: dict[str, Any]) -> list[str]:
    """List what must not be stored: text on stderr, errors, and addresses in memory."""
    found = []
    for number, cell in enumerate(notebook["cells"], start=1):
        for output in cell.get("outputs", []):
            plain = text_of(output.get("data", {}).get("text/plain", output.get("text", "")))
            if output["output_type"] == "error":
                found.append(f"cell {number} raises {output['ename']}")
            elif output.get("name") == "stderr":
                found.append(f"cell {number} writes to stderr: {plain.strip().splitlines()[-1:]}")
            elif re.search(r" at 0x[0-9a-fA-F]{6,}", plain):
                found.append(f"cell {number} shows an address in memory")
    return found


def strip(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a copy without what differs between two runs or needs a running kernel.

    Gone are timing metadata, live widget views, widget state and the interpreter's version; text that arrived in pieces
    is joined. Outputs, their metadata (alternative text) and execution counts stay. A cell without an id gets one from
    its place and text.
    """
    notebook = copy.deepcopy(notebook)
    notebook["metadata"].pop("widgets", None)
    notebook["metadata"]["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook["metadata"]["language_info"] = {"name": "python"}
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    ids = set()
    for number, cell in enumerate(notebook["cells"]):
        if not cell.get("id") or cell["id"] in ids:
            cell["id"] = hashlib.sha256(f"{number} {text_of(cell['source'])}".encode()).hexdigest()[:12]
        ids.add(cell["id"])
        for key in ("execution", "ExecuteTime", "execution_timing"):
            cell["metadata"].pop(key, None)
        if cell["cell_type"] == "code":
            cell["outputs"] = stripped_outputs(cell["outputs"])
    return notebook


def stripped_outputs(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a cell's outputs without live widget views and with neighbouring pieces of one stream joined."""
    kept: list[dict[str, Any]] = []
    for output in outputs:
        if "data" in output:
            output["data"].pop(WIDGET_VIEW, None)
            if not output["data"]:
                continue
        if output["output_type"] == "stream":
            output["text"] = text_of(output["text"])
            if kept and kept[-1].get("name") == output["name"]:
                kept[-1]["text"] += output["text"]
                continue
        kept.append(output)
    return kept


def repository_setting(root: Path) -> str:
    """Return the public address set in pyproject.toml, empty until there is one.

    Raises:
        Refusal: for anything but https://github.com/OWNER/NAME.
    """
    import tomllib

    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    repository = settings.get("tool", {}).get("course", {}).get("repository", "").rstrip("/").removesuffix(".git")
    if repository and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", repository):
        raise Refusal(f"expected [tool.course] repository to be https://github.com/OWNER/NAME, got {repository}")
    return repository


def setup_block(repository: str) -> str:
    """Return how a notebook finds gm_utils: it is there, or comes from the repository, or the reader is told."""
    if repository:
        otherwise = f"    %pip install --quiet git+{repository}\n    import gm_utils"
    else:
        words = "gm_utils is missing: start with `python3 course.py lab` (or `colab`)"
        otherwise = f'    raise ModuleNotFoundError("{words}") from None'
    return f"{SETUP_START}  # noqa: F401\nexcept ModuleNotFoundError:\n{otherwise}"


def setup_cell(notebook: dict[str, Any]) -> dict[str, Any] | None:
    """Return a notebook's set-up cell."""
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    return next((cell for cell in cells if text_of(cell["source"]).startswith(SETUP_START)), None)


def addressed(notebook: dict[str, Any], name: str, repository: str) -> dict[str, Any]:
    """Return a copy whose Colab badge and set-up cell follow the repository's address, badge and all gone without one.

    Raises:
        Refusal: for a set-up cell of another form.
    """
    notebook = copy.deepcopy(notebook)
    path = f"/blob/main/notebooks/{name}.ipynb"
    colab = "https://colab.research.google.com/"
    first = notebook["cells"][0] if notebook["cells"] else {"cell_type": ""}
    if first["cell_type"] == "markdown":
        text = re.sub(r"\A\[!\[Open in Colab\].*\n+", "", text_of(first["source"]))
        if repository:
            badge = f"{colab}assets/colab-badge.svg"
            link = f"{colab}github/{repository.removeprefix('https://github.com/')}{path}"
            text = f"[![Open in Colab]({badge})]({link})\n\n{text}"
        first["source"] = text
    cell = setup_cell(notebook)
    if cell:
        block = re.compile(re.escape(SETUP_START) + r"[^\n]*\nexcept [^\n]*\n(?:[ \t]+[^\n]*(?:\n|\Z))+")
        text = text_of(cell["source"])
        found = block.match(text)
        if not found:
            raise Refusal(f"expected the set-up cell of {name} to start with a try block and its except")
        cell["source"] = setup_block(repository) + ("\n" if found[0].endswith("\n") else "") + text[found.end() :]
    return notebook


def without_answers(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a student's copy, without solutions and model answers.

    What is folded away is gone, and so is every cell with the tag ``answers``.
    """
    notebook = copy.deepcopy(notebook)
    kept = []
    for cell in notebook["cells"]:
        if "answers" in cell["metadata"].get("tags", []):
            continue
        if cell["cell_type"] == "markdown":
            text = text_of(cell["source"])
            cell["source"] = re.sub(r"(?s)<details\b.*?</details>\s*", "", text).strip()
            if text.strip() and not cell["source"]:
                continue
        kept.append(cell)
    notebook["cells"] = kept
    return notebook


CARRIER = '''#@title Set-up: this cell carries the course's package gm_utils. Run it; there is nothing to read.
def _unpack(files):
    import base64, json, pathlib, sys, tempfile, zlib

    if "gm_utils" in sys.modules:
        return
    folder = pathlib.Path(tempfile.mkdtemp(prefix="gm_utils-"))
    for name, text in json.loads(zlib.decompress(base64.b64decode(files))).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))


_unpack("""
PACKED
""")
del _unpack'''


def carrying_cell(package: Path) -> dict[str, Any]:
    """Return a folded code cell that brings the package along, whole, wherever the notebook is opened."""
    files = {
        path.relative_to(package.parent).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(package.rglob("*"))
        if path.is_file() and path.suffix in (".py", ".json", ".csv", ".toml", ".txt")
    }
    packed = base64.b64encode(zlib.compress(json.dumps(files).encode(), 9)).decode()
    lines = "\n".join(packed[start : start + 116] for start in range(0, len(packed), 116))
    return {
        "cell_type": "code",
        "id": "gm-utils-inside",
        "metadata": {"cellView": "form", "jupyter": {"source_hidden": True}},
        "source": CARRIER.replace("PACKED", lines),
        "outputs": [],
        "execution_count": None,
    }


def uploadable(notebook: dict[str, Any], name: str, package: Path, repository: str) -> dict[str, Any]:
    """Return a copy that needs no installation: the package travels in its first code cell; outputs are kept."""
    notebook = addressed(notebook, name, repository)
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    place = kinds.index("code") if "code" in kinds else len(kinds)
    notebook["cells"].insert(place, carrying_cell(package))
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    return notebook


# Running notebooks: this part works inside an environment

# Placed on a Python's path as sitecustomize: an audit hook cannot be taken off again.
GUARD = '''"""Refuses every connection beyond this machine and, if asked to, every program that might make one."""
import sys

PROGRAMS_TOO = False

def _refuse(event, arguments):
    if PROGRAMS_TOO and event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        raise PermissionError("offline: no programs, got " + repr(arguments[0]))
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        place = arguments[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        place = arguments[:1]
    else:
        return
    if isinstance(place, tuple):
        host = place[0].decode() if isinstance(place[0], bytes) else place[0]
        if host and host not in ("localhost", "::1") and not host.startswith("127."):
            raise PermissionError("offline: no network, got " + host)

sys.addaudithook(_refuse)
'''

PROBE = """import importlib.util, socket
for attempt, place in ((socket.create_connection, (("192.0.2.1", 80), 2)), (socket.getaddrinfo, ("example.org", 80))):
    try:
        attempt(*place)
    except PermissionError as error:
        assert "offline" in str(error), error
    else:
        raise AssertionError("the network is not blocked")
assert BARE is False or importlib.util.find_spec("gm_utils") is None, "gm_utils is installed here"
print("no network here: attempts refused")"""


def watch_memory(pid: int, stop: threading.Event, peak: list[float]) -> None:
    """Keep the largest resident size of a process and its children, in MB, in ``peak[0]`` until told to stop."""
    import psutil

    while not stop.is_set():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            family = [process, *process.children(recursive=True)]
            peak[0] = max(peak[0], sum(one.memory_info().rss for one in family) / 1e6)
        stop.wait(0.05)


def execute(path: Path, *, timeout: int, offline: bool, bare: bool, times: int) -> tuple[Any, float, float, str]:
    """Execute one notebook in an empty folder, ``times`` over, each time with a fresh kernel.

    Returns:
        The executed notebook, seconds from kernel start to last cell, peak memory in MB, and the error or "".
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    if offline:
        probe = nbformat.v4.new_code_cell(PROBE.replace("BARE", str(bare)))
        notebook.cells.insert(0, probe)
    stop, peak, error = threading.Event(), [0.0], ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty, tempfile.TemporaryDirectory() as guard:
        variables = dict(os.environ)
        if offline:
            text = GUARD.replace("PROGRAMS_TOO = False", "PROGRAMS_TOO = True")
            (Path(guard) / "sitecustomize.py").write_text(text, encoding="utf-8")
            variables["PYTHONPATH"] = guard if bare else os.pathsep.join([guard, variables.get("PYTHONPATH", "")])
            variables["TMPDIR"] = guard  # where a copy unpacks the package

        def begin(**_: Any) -> None:
            kernel = client.km.provisioner.pid
            threading.Thread(target=watch_memory, args=(kernel, stop, peak), daemon=True).start()

        client: Any = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            record_timing=False,
            store_widget_state=False,
            extra_arguments=["--log-level=40"],
            resources={"metadata": {"path": empty}},
            on_notebook_start=begin,
        )
        started = time.monotonic()
        try:
            for _ in range(times):
                client.execute(env=variables)
        except CellExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}\n{failure.traceback}"
        except Exception as failure:  # a dead kernel, a timeout: the other notebooks still have their turn
            error = f"{type(failure).__name__}: {failure}"
        seconds = time.monotonic() - started
        stop.set()
    if offline and notebook.cells.pop(0).outputs:
        for cell in notebook.cells:
            if cell.get("execution_count"):
                cell.execution_count -= 1
    return notebook, seconds, peak[0], error


def run_inside(arguments: list[str]) -> int:
    """Execute the notebooks given as paths, print the table, and store results where asked."""
    import importlib.util

    import nbformat

    options = json.loads(arguments[0])
    # The reader's own Matplotlib and IPython settings would change the pictures.
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib and matplotlib.origin:
        os.environ["MATPLOTLIBRC"] = str(Path(matplotlib.origin).parent / "mpl-data" / "matplotlibrc")
    failures = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        os.environ["IPYTHONDIR"] = profile
        for path in map(Path, arguments[1:]):
            notebook, seconds, peak, error = execute(
                path,
                timeout=options["timeout"],
                offline=options["offline"],
                bare=options["bare"],
                times=options["times"],
            )
            remarks = [] if error else problems_in(notebook)
            unfit = error or (options["commit"] and remarks)
            result = ("FAIL" if unfit else "ok") + "".join(f"; {remark}" for remark in remarks)
            print(f"{path.stem:<40} {seconds:8.1f} {peak:8.0f}  {result}", flush=True)
            if unfit:
                failures.append(f"{path.stem}: {error or '; '.join(remarks)}")
                continue
            if options["commit"]:
                notebook = nbformat.from_dict(addressed(strip(notebook), path.stem, repository_setting(ROOT)))
            if options["out"]:
                target = Path(options["out"]) / path.name
                part = target.with_name(f".{target.name}.part")
                nbformat.write(notebook, part)
                part.replace(target)
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    return 1 if failures else 0


def stored_notebooks() -> dict[str, dict[str, Any]]:
    """Return the course's notebooks in the form of their files, name by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in select(ROOT / "notebooks", [])}


def questions_inside(arguments: list[str]) -> int:
    """Write the questions into the notebooks given as paths; those that say the same stay untouched."""
    import nbformat

    from gm_utils.syllabus import read
    from press.questions import check, written_into

    try:
        syllabus = read()
        check(syllabus, stored_notebooks())
        for path in map(Path, arguments):
            notebook = nbformat.read(path, as_version=4)
            before = copy.deepcopy(notebook)
            written_into(notebook, path.stem, syllabus)
            if notebook != before:
                nbformat.write(nbformat.from_dict(notebook), path)
                print(f"{path.stem}: written")
    except ValueError as error:
        print(f"course.py: {error}", file=sys.stderr)
        return 1
    return 0


def sheet_inside(arguments: list[str]) -> int:
    """Write the sheet of formulas from the stored notebooks to the file named."""
    from gm_utils.syllabus import read
    from press.sheet import page

    try:
        text = page(read(), stored_notebooks())
    except ValueError as error:
        print(f"course.py: {error}", file=sys.stderr)
        return 1
    Path(arguments[0]).write_text(text, encoding="utf-8")
    print(f"{arguments[0]}: {len(text.encode()) / 1000:.0f} kB")
    return 0


# The commands


def hand_over(command: list[Any], folder: Path, variables: dict[str, str]) -> int:
    """Become another program where the system can; elsewhere wait for it and leave Ctrl-C to it."""
    words = [str(part) for part in command]
    if os.name != "nt":
        sys.stdout.flush()
        os.chdir(folder)
        os.execve(words[0], words, variables)
    with subprocess.Popen(words, cwd=folder, env=variables) as program:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return program.wait()


def lab(arguments: list[str]) -> int:
    """Open JupyterLab on the reader's copies."""
    python = environment("default", {"lab"})
    for line in working_copies(select(ROOT / "notebooks", []), ROOT / "work"):
        print(line)
    variables = with_compilation_cache(children_environment(), ROOT / ".jax_cache")
    return hand_over([python, "-m", "jupyterlab", *arguments], ROOT / "work", variables)


def reset(arguments: list[str]) -> int:
    """Renew the reader's copies, keeping the changed ones."""
    chosen = select(ROOT / "notebooks", arguments)
    for line in working_copies(chosen, ROOT / "work", renew=True):
        print(line)
    print(f"{len(chosen)} notebooks in work/ are as in notebooks/.")
    return 0


def run_step(name: str, command: list[Any], variables: dict[str, str]) -> bool:
    """Run one step of the suite, say how it went and how long it took."""
    started = time.monotonic()
    print(f"== {name}", flush=True)
    code = subprocess.call([str(part) for part in command], cwd=ROOT, env=variables)
    print(f"== {name}: {'passed' if code == 0 else 'FAILED'} after {time.monotonic() - started:.0f} s", flush=True)
    return code == 0


def lane_environment(name: str) -> dict[str, str]:
    """Return the variables for a lane; where gm_utils is not installed it is found in the checkout."""
    variables = children_environment()
    if not LANES[name].package:
        variables["PYTHONPATH"] = str(ROOT)
    return variables


def test(arguments: list[str]) -> int:
    """Run the suite: style, types, unit tests and every notebook."""
    parser = argparse.ArgumentParser(prog="course.py test", add_help=False, allow_abbrev=False)
    parser.add_argument("--lane", choices=LANES, default="default")
    parser.add_argument("--compiled", type=Path, help=COMPILED_HELP)
    options, rest = parser.parse_known_args(arguments)
    lane = LANES[options.lane]
    python = environment(options.lane, {"lab", "test"})
    variables = without_compilation_cache(lane_environment(options.lane))
    if options.compiled:
        variables = with_compilation_cache(variables, options.compiled.resolve())
    paths = [word for word in rest if not word.startswith("-") and (ROOT / word.split("::")[0]).exists()]
    passed = True
    if lane.checks and not paths:
        places = [place for place in CHECKED if (ROOT / place).exists()]
        passed &= run_step("ruff", [python, "-m", "ruff", "check", *places], variables)
        passed &= run_step("mypy", [python, "-m", "mypy", "gm_utils", "press", "course.py"], variables)
    what = rest if paths else ["tests", *select(ROOT / "notebooks", []), *rest]
    filters = [part for warning in lane.warnings for part in ("-W", warning)]
    chosen = [] if lane.checks else ["-m", "not once"]
    # Two processes share notebooks, classes and what else a file holds, in the order of tests/conftest.py.
    shared = [] if paths else ["--numprocesses", "2", "--dist", "loadscope", "--no-loadscope-reorder"]
    pytest = [python, "-m", "pytest", "--nbval-lax", "--nbval-current-env", *shared, *filters, *chosen, *what]
    passed &= run_step(f"pytest, lane {options.lane}", pytest, variables)
    return 0 if passed else 1


def execute_in(
    lane: str, paths: list[Path], options: dict[str, Any], *, compiled: Path | None, processes: int = 1
) -> int:
    """Execute notebooks with the Python of a lane; ``compiled`` keeps what JAX compiles, None compiles all anew."""
    python = environment(lane, {"lab"})
    variables = without_compilation_cache(lane_environment(lane))
    if compiled:
        variables = with_compilation_cache(variables, compiled)
    print(f"{'notebook':<40} {'seconds':>8} {'peak MB':>8}  result", flush=True)
    command = [str(python), str(Path(__file__).resolve()), "_run", json.dumps(options)]
    shares = [list(map(str, paths[start::processes])) for start in range(processes)]
    running = [subprocess.Popen([*command, *share], env=variables) for share in shares]
    try:
        codes = [program.wait() for program in running]
    finally:
        for program in running:
            program.kill()
    return int(any(codes))


def run(arguments: list[str]) -> int:
    """Execute notebooks, print a table, write only where told to."""
    parser = argparse.ArgumentParser(prog="course.py run", allow_abbrev=False)
    parser.add_argument("names", nargs="*", help="numbers or starts of names; all without")
    parser.add_argument("--lane", choices=LANES, default="default")
    parser.add_argument("--cold", action="store_true", help="compile everything anew")
    parser.add_argument("--offline", action="store_true", help="refuse the kernel every connection")
    parser.add_argument("--timeout", type=int, default=600, help="seconds a cell may take")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--out", type=Path, help="store the executed notebooks in this folder")
    target.add_argument("--commit", action="store_true", help="store stripped outputs in notebooks/")
    options = parser.parse_args(arguments)
    if options.commit and options.lane != "default":
        raise Refusal("outputs are committed from lane default only")
    chosen = select(ROOT / "notebooks", options.names)
    if not chosen:
        print("There are no notebooks yet.")
        return 0
    out = ROOT / "notebooks" if options.commit else options.out
    if out:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):  # refused now, and not after minutes of work
            pass
    settings = {
        "timeout": options.timeout,
        "offline": options.offline,
        "bare": False,
        "times": 1,
        "commit": options.commit,
        "out": str(out.resolve()) if out else "",
    }
    return execute_in(options.lane, chosen, settings, compiled=None if options.cold else ROOT / ".jax_cache")


def distributions(python: Path) -> str | None:
    """Return the names and versions of all that is installed."""
    listed = "sorted(f'{each.name}=={each.version}' for each in importlib.metadata.distributions())"
    return answer([python, "-I", "-c", f"import importlib.metadata; print({listed})"])


def colab(arguments: list[str]) -> int:
    """Write the copies for upload; with --check, prove them in Colab's versions without a network."""
    parser = argparse.ArgumentParser(prog="course.py colab", allow_abbrev=False)
    parser.add_argument("names", nargs="*", help="numbers or starts of names; all without")
    parser.add_argument("--check", action="store_true", help="execute the copies offline in Colab's versions")
    parser.add_argument("--compiled", type=Path, help=COMPILED_HELP)
    options = parser.parse_args(arguments)
    folder = ROOT / "dist" / "colab"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in select(ROOT / "notebooks", options.names):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook = uploadable(notebook, path.stem, ROOT / "gm_utils", repository_setting(ROOT))
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        (folder / path.name).write_text(text, encoding="utf-8")
        written.append(folder / path.name)
        print(f"dist/colab/{path.name}: {len(text.encode()) / 1000:.0f} kB")
    if not written:
        print("There are no notebooks yet.")
    if not options.check or not written:
        return 0
    python = environment("colab", {"lab"})
    before = distributions(python)
    settings = {"timeout": 600, "offline": True, "bare": True, "times": 2, "commit": False, "out": ""}
    with tempfile.TemporaryDirectory() as passing:
        compiled = (options.compiled or Path(passing)).resolve()
        code = execute_in("colab", written, settings, compiled=compiled, processes=2)
    if distributions(python) != before:
        print("The copies have changed what is installed.")
        code = 1
    print(f"== copies for upload, alone, no network, again after a restart: {'FAILED' if code else 'passed'}")
    return code


def inside(command: str, arguments: list[Any]) -> int:
    """Go on in the environment of lane default, which has the packages that this script does without."""
    python = environment("default", {"lab"})
    words = [python, Path(__file__).resolve(), command, *arguments]
    return subprocess.call([str(word) for word in words], cwd=ROOT, env=children_environment())


def questions(arguments: list[str]) -> int:
    """Write the file of questions into the notebooks."""
    return inside("_questions", select(ROOT / "notebooks", arguments))


def handout(arguments: list[str]) -> int:
    """Write student copies, and nothing into a folder that holds the originals."""
    parser = argparse.ArgumentParser(prog="course.py handout", allow_abbrev=False)
    parser.add_argument("names", nargs="*", help="numbers or starts of names; all without")
    parser.add_argument("--out", type=Path, default=ROOT / "handouts", help="the folder; handouts/ without")
    options = parser.parse_args(arguments)
    if options.out.resolve() in ((ROOT / "notebooks").resolve(), (ROOT / "work").resolve()):
        raise Refusal(f"{options.out} holds the notebooks themselves: name another folder")
    options.out.mkdir(parents=True, exist_ok=True)
    for path in select(ROOT / "notebooks", options.names):
        copied = without_answers(json.loads(path.read_text(encoding="utf-8")))
        text = json.dumps(copied, indent=1, ensure_ascii=False) + "\n"
        (options.out / path.name).write_text(text, encoding="utf-8")
        print(options.out / path.name)
    return 0


def sheet(arguments: list[str]) -> int:
    """Write the sheet of formulas."""
    parser = argparse.ArgumentParser(prog="course.py sheet", allow_abbrev=False)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist" / "sheet.html", help="the file; dist/sheet.html without"
    )
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    return inside("_sheet", [options.out.resolve()])


COMMANDS = {
    "lab": lab,
    "reset": reset,
    "test": test,
    "run": run,
    "colab": colab,
    "questions": questions,
    "handout": handout,
    "sheet": sheet,
    "_run": run_inside,
    "_questions": questions_inside,
    "_sheet": sheet_inside,
}


def main(arguments: list[str]) -> int:
    """Run one command and return the exit status."""
    complaint = old_python(sys.version_info[:3])
    if complaint:
        print(complaint, file=sys.stderr)
        return 1
    name = arguments[0] if arguments else ""
    if name not in COMMANDS:
        asked = name in ("help", "-h", "--help")
        if name and not asked:
            print(f"course.py knows no command {name!r}.\n", file=sys.stderr)
        print(__doc__, end="", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        return COMMANDS[name](arguments[1:])
    except LaneMissing as missing:
        print(f"== SKIPPED {missing}")
        return 0
    except Refusal as refusal:
        print(f"course.py: {refusal}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        words = "copy the course to a folder of your own, and start it there"
        print(f"course.py: no access to {error.filename} ({error.strerror}): {words}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
