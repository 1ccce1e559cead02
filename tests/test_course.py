"""The command of the course, without making an environment: its decisions, its copies, its notebooks' upkeep."""

import ast
import base64
import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("course", ROOT / "course.py")
course = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(course)

posix = pytest.mark.skipif(os.name == "nt", reason="plants shell scripts as interpreters")
REPOSITORY = "https://github.com/someone/some-course"
SETUP = "try:\n    import gm_utils\nexcept ModuleNotFoundError:\n    raise\n\nimport json\n"


@pytest.fixture
def place(tmp_path):
    """A folder whose name has a space and letters beyond ASCII."""
    folder = tmp_path / "mon cours été 学"
    folder.mkdir()
    return folder


def script(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def python_that_says(path, version):
    return script(path, f"echo {version}")


def code(source, **more):
    cell = {"cell_type": "code", "id": "c", "metadata": {}, "execution_count": 1, "outputs": [], "source": source}
    return {**cell, **more}


def notebook_of(*cells, metadata=None):
    return {"cells": list(cells), "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 5}


def write(folder, name, *cells):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps(notebook_of(*cells)), encoding="utf-8")
    return path


def call(*arguments, **options):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    return done.returncode, done.stdout, done.stderr


# Old Pythons, wrong words


@pytest.mark.parametrize("version", [(3, 8, 18), (3, 10, 13), (2, 7, 18)])
def test_an_old_python_gets_one_sentence(version):
    body = f"import runpy, sys; sys.version_info = {version}; sys.argv = ['course.py', 'lab']; "
    status, out, err = call("-c", f"{body}runpy.run_path({str(ROOT / 'course.py')!r}, run_name='__main__')")
    assert status == 1
    assert out == ""
    assert err.count("\n") == 1
    assert "needs Python 3.11 or newer" in err
    assert "this is Python {}.{}".format(*version[:2]) in err


def test_python_3_11_is_new_enough_and_an_old_parser_reads_the_script():
    assert course.old_python((3, 11, 0)) == ""
    assert course.old_python((4, 0)) == ""
    ast.parse((ROOT / "course.py").read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize(("words", "status"), [([], 2), (["tset"], 2), (["--help"], 0)])
def test_usage_names_every_command(words, status, capsys):
    assert course.main(words) == status
    shown = "".join(capsys.readouterr())
    assert all(f"course.py {name}" in shown for name in course.COMMANDS if not name.startswith("_"))
    assert ("knows no command 'tset'" in shown) == (words == ["tset"])


# Interpreters and environments


@posix
def test_a_shim_that_fails_is_passed_over(place):
    shim = script(place / "shims" / "python3.99", "echo 'command not found' >&2; exit 127")
    other = python_that_says(place / "bin" / "python3.99", "3.98")
    threaded = python_that_says(place / ".pyenv" / "versions" / "3.99.0t" / "bin" / "python", "3.99t")
    right = python_that_says(place / ".pyenv" / "versions" / "3.99.0" / "bin" / "python", "3.99")
    path = os.pathsep.join([str(shim.parent), "", str(place / "missing"), str(other.parent)])
    assert course.find_python("3.99", home=place, path=path) == right
    listed = course.interpreter_places("3.99", place, path)
    assert listed.index(shim) < listed.index(other) < listed.index(threaded)
    right.unlink()
    with pytest.raises(course.LaneMissing, match=r"no Python 3\.99"):
        course.find_python("3.99", home=place, path=path)


def test_version_of_the_running_python():
    assert course.version_of(sys.executable) == "{}.{}".format(*sys.version_info[:2])
    assert course.version_of(ROOT / "no such python") is None


@pytest.fixture
def checkout(place, monkeypatch):
    """A checkout in which making and installing only leave a trace."""
    (place / "pins.txt").write_text("numpy==2.0\n")
    (place / "pyproject.toml").write_text('[project]\ndependencies = ["numpy"]\n[tool.ruff]\nline-length = 100\n')
    trace = []

    def create(folder, interpreter):
        trace.append("create")
        python_that_says(course.python_of(folder), "3.99")

    def install(python, what):
        trace.append(" ".join(what))
        return "fails" not in (place / "pins.txt").read_text()

    monkeypatch.setattr(course, "ROOT", place)
    monkeypatch.setattr(course, "LANES", {"default": course.Lane(".venv", None, ("pins.txt",), True, True)})
    monkeypatch.setattr(course, "create", create)
    monkeypatch.setattr(course, "install", install)
    return place, trace


@posix
def test_an_environment_is_made_once_and_completed_for_the_tests(checkout):
    place, trace = checkout
    python = course.environment("default", {"lab"})
    assert python == place / ".venv" / "bin" / "python"
    assert trace == ["create", "--editable .[lab] --constraint pins.txt"]
    course.environment("default", {"lab"})
    assert len(trace) == 2
    course.environment("default", {"lab", "test"})
    assert trace[2:] == ["--editable .[lab,test] --constraint pins.txt"]
    course.environment("default", {"lab"})
    assert len(trace) == 3


@posix
@pytest.mark.parametrize("damage", ["pins", "dependency", "python", "stamp", "folder is a file", "stopped half-way"])
def test_what_makes_an_environment_anew(checkout, damage):
    place, trace = checkout
    python = course.environment("default", {"lab"})
    stamp = place / ".venv" / course.STAMP
    if damage == "pins":
        (place / "pins.txt").write_text("numpy==2.1\n")
    elif damage == "dependency":
        (place / "pyproject.toml").write_text('[project]\ndependencies = ["numpy", "scipy"]\n')
    elif damage == "python":
        script(python, "exit 1")
    elif damage == "stamp":
        stamp.write_text("{")
    elif damage == "folder is a file":
        course.remove(place / ".venv")
        (place / ".venv").write_text("")
    else:
        (place / "pins.txt").write_text("fails\n")
        with pytest.raises(course.Refusal, match="network"):
            course.environment("default", {"lab"})
        assert not stamp.exists()
        (place / "pins.txt").write_text("numpy==2.0\n")
    before = trace.count("create")
    course.environment("default", {"lab"})
    assert trace.count("create") == before + 1


@posix
def test_an_environment_left_half_completed_is_not_trusted(checkout, monkeypatch):
    _, trace = checkout
    course.environment("default", {"lab"})
    with monkeypatch.context() as stopped:
        stopped.setattr(course, "install", lambda python, what: False)
        with pytest.raises(course.Refusal):
            course.environment("default", {"lab", "test"})
    course.environment("default", {"lab"})
    assert trace.count("create") == 2


@posix
def test_a_style_setting_leaves_the_environment_alone(checkout):
    place, trace = checkout
    course.environment("default", {"lab"})
    text = (place / "pyproject.toml").read_text()
    (place / "pyproject.toml").write_text(text.replace("100", "120"))
    course.environment("default", {"lab"})
    assert trace.count("create") == 1


def test_the_stamp_knows_the_python_and_the_place(checkout):
    place, _ = checkout
    lane = course.LANES["default"]
    elsewhere = place / "moved"
    elsewhere.mkdir()
    for name in ("pins.txt", "pyproject.toml"):
        (elsewhere / name).write_text((place / name).read_text())
    digests = {course.digest_of(lane, place, "3.11"), course.digest_of(lane, place, "3.12")}
    assert len(digests | {course.digest_of(lane, elsewhere, "3.11")}) == 3


@posix
def test_a_python_without_venv_gets_one_sentence(place, monkeypatch):
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(course.Refusal, match="apt install python3-venv"):
        course.create(place / ".venv", script(place / "python", "exit 1"))


@pytest.mark.parametrize(("uv", "successes_after", "kinds"), [
    (["uv"], 0, ["uv"]),
    (["uv"], 1, ["uv", "uv with the system's certificates"]),
    (["uv"], 2, ["uv", "uv with the system's certificates", "pip"]),
    (None, 0, ["pip"]),
])  # fmt: skip
def test_the_ways_to_install_are_tried_in_turn(monkeypatch, uv, successes_after, kinds):
    tried = []

    def run(command, cwd, env):
        certificates = " with the system's certificates" if env.get("UV_SYSTEM_CERTS") else ""
        tried.append(("uv" if command[0] == "uv" else "pip") + certificates)
        return 0 if len(tried) > successes_after else 1

    monkeypatch.delenv("UV_SYSTEM_CERTS", raising=False)
    monkeypatch.setattr(course, "uv_command", lambda python: uv)
    monkeypatch.setattr(course, "answer", lambda *a, **k: "")
    monkeypatch.setattr(course.subprocess, "call", run)
    assert course.install(Path("python"), ["numpy"])
    assert tried == kinds


@pytest.mark.parametrize("forbidden", [True, False])
def test_modules_are_compiled_at_once_where_python_may_not_keep_them(monkeypatch, forbidden):
    given = []
    monkeypatch.delenv("UV_COMPILE_BYTECODE", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", forbidden)
    monkeypatch.setattr(course, "uv_command", lambda python: ["uv"])
    monkeypatch.setattr(course.subprocess, "call", lambda command, cwd, env: given.append(env) or 0)
    assert course.install(Path("python"), ["numpy"])
    assert ("UV_COMPILE_BYTECODE" in given[0]) == forbidden


def test_a_lane_without_its_python_is_skipped_by_name(checkout, monkeypatch, capsys):
    lane = course.Lane(".venv-colab", "3.99", ("pins.txt",), False, False)
    monkeypatch.setitem(course.LANES, "colab", lane)
    monkeypatch.setattr(course, "find_python", lambda version: (_ for _ in ()).throw(course.LaneMissing("none here")))
    assert course.main(["test", "--lane", "colab"]) == 0
    assert "SKIPPED lane colab: none here" in capsys.readouterr().out


def test_every_lane_has_its_files_and_its_place_in_the_long_run():
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    tested = re.findall(r"(?m)^step .*course\.py test(?: --lane (\w+))?", steps)
    assert [lane or "default" for lane in tested] == list(course.LANES)
    assert re.findall(r"for lane in (.*);", steps) == [" ".join(course.LANES)]
    for lane in course.LANES.values():
        assert all((ROOT / pins).is_file() for pins in lane.pins)


@posix
def test_handing_over_keeps_the_process_and_the_status(place):
    body = (
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nimport course\nprint(os.getpid())\n"
        "inner = 'import os, sys; print(os.getpid(), os.getcwd()); sys.exit(7)'\n"
        f"course.hand_over([sys.executable, '-c', inner], {str(place)!r}, dict(os.environ))"
    )
    status, out, _ = call("-c", body)
    outer, inner = out.splitlines()
    assert status == 7
    assert inner == f"{outer} {place}"


# JAX's cache


def test_the_cache_is_filled_under_the_names_jax_reads(place):
    variables = course.with_compilation_cache(course.without_compilation_cache(dict(os.environ)), place / "cache")
    body = "import jax; jax.jit(lambda x: x * 2 + 1)(3.0)"
    assert call("-c", body, env=variables)[0] == 0
    assert any((place / "cache").iterdir())


def test_a_cache_that_cannot_be_written_is_left_out(place):
    (place / "file").write_text("")
    assert course.with_compilation_cache({"A": "b"}, place / "file" / "cache") == {"A": "b"}


def test_the_readers_own_cache_is_kept_and_a_cold_run_has_none(place):
    own = {"JAX_COMPILATION_CACHE_DIR": "/somewhere"}
    assert course.with_compilation_cache(own, place) == own
    assert course.without_compilation_cache({**own, "A": "b"}) == {"A": "b"}


# Names and working copies


def test_notebooks_are_chosen_by_number_or_start(place):
    two, three = write(place, "02_two"), write(place, "03_three")
    assert course.select(place, []) == [two, three]
    assert course.select(place, ["3", "02"]) == [three, two]
    assert course.select(place, ["notebooks/02_two.ipynb", "02_t"]) == [two]
    assert course.select(place / "missing", []) == []
    with pytest.raises(course.Refusal, match=r"no notebook is called '9'; there are: 02_two, 03_three"):
        course.select(place, ["9"])


def test_copies_follow_the_originals_until_the_reader_changes_them(place):
    original, work = write(place / "notebooks", "02_two", code("1")), place / "work"
    mine = work / original.name
    assert course.working_copies([original], work) == []
    assert mine.read_bytes() == original.read_bytes()
    write(place / "notebooks", "02_two", code("2"))
    assert course.working_copies([original], work) == []
    assert mine.read_bytes() == original.read_bytes()
    mine.write_text("the reader's")
    assert course.working_copies([original], work) == []
    write(place / "notebooks", "02_two", code("3"))
    (told,) = course.working_copies([original], work)
    assert "newer version" in told
    assert mine.read_text() == "the reader's"


def test_reset_keeps_every_changed_copy(place):
    original, work = write(place / "notebooks", "02_two", code("1")), place / "work"
    mine = work / original.name
    course.working_copies([original], work)
    assert course.working_copies([original], work, renew=True) == []
    for text in ("first", "second"):
        mine.write_text(text)
        (told,) = course.working_copies([original], work, renew=True)
        assert re.search(r"02_two-\d{8}-\d{6}(-2)?\.ipynb", told)
        assert mine.read_bytes() == original.read_bytes()
    assert {kept.read_text() for kept in (work / "backup").iterdir()} == {"first", "second"}


def test_a_lost_record_costs_the_reader_nothing(place):
    original, work = write(place / "notebooks", "02_two", code("1")), place / "work"
    course.working_copies([original], work)
    (work / original.name).write_text("the reader's")
    (work / ".originals.json").write_text("{")
    course.working_copies([original], work)
    assert (work / original.name).read_text() == "the reader's"


# What is stored


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data):
    return {"output_type": "display_data", "data": data, "metadata": {"image/png": {"alt": "a curve"}}}


def messy():
    picture = shown(**{"image/png": "AAAA", "text/plain": ["a figure"], course.WIDGET_VIEW: {"model_id": "1"}})
    live = shown(**{course.WIDGET_VIEW: {"model_id": "2"}})
    outputs = [stream("a"), stream(["b\n", "c"]), picture, live, stream("d")]
    metadata = {"execution": {"a": 1}, "tags": ["timing"]}
    timed = code("x", id="kept", execution_count=3, outputs=outputs, metadata=metadata)
    return notebook_of(
        {"cell_type": "markdown", "metadata": {}, "source": ["# T"]}, timed, code("y", id="kept"),
        metadata={"widgets": {"state": {}}, "language_info": {"name": "python", "version": "3.11.7"}},
    )  # fmt: skip


def test_stripping_leaves_what_two_runs_share():
    notebook = messy()
    before = copy.deepcopy(notebook)
    stripped = course.strip(notebook)
    assert notebook == before
    cell = stripped["cells"][1]
    assert cell["metadata"] == {"tags": ["timing"]}
    assert cell["execution_count"] == 3
    assert cell["id"] == "kept"
    picture = {**shown(**{"image/png": "AAAA", "text/plain": ["a figure"]})}
    assert cell["outputs"] == [stream("ab\nc"), picture, stream("d")]
    assert stripped["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    ids = [cell["id"] for cell in stripped["cells"]]
    assert len(set(ids)) == 3
    assert course.strip(messy()) == stripped == course.strip(stripped)
    nbformat.validate(nbformat.from_dict(stripped))


@pytest.mark.parametrize(("output", "words"), [
    (stream("  \nwatch out\n", "stderr"), "stderr"),
    ({"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}, "raises ValueError"),
    (shown(**{"text/plain": "<function f at 0x7f0123456789>"}), "address"),
    (stream("<object at 0x7f0123456789>"), "address"),
])  # fmt: skip
def test_what_must_not_be_stored_is_named(output, words):
    (problem,) = course.problems_in(notebook_of(code("1"), code("2", outputs=[output])))
    assert problem.startswith("cell 2 ")
    assert words in problem


def test_ordinary_output_may_be_stored():
    assert course.problems_in(notebook_of(code("1", outputs=[stream("at 0x"), shown(**{"image/png": "AAAA"})]))) == []


# The repository's address and the copies for upload


def titled():
    title = {"cell_type": "markdown", "id": "m", "metadata": {}, "source": ["# Title\n", "text"]}
    return notebook_of(title, code(SETUP))


def test_the_address_comes_and_goes():
    with_address = course.addressed(titled(), "02_two", REPOSITORY)
    title, setup = (cell["source"] for cell in with_address["cells"])
    assert title.startswith("[![Open in Colab](https://")
    assert "/github/someone/some-course/blob/main/notebooks/02_two.ipynb)\n\n# Title\ntext" in title
    assert f"    %pip install --quiet git+{REPOSITORY}\n    import gm_utils\n\nimport json\n" in setup
    assert course.addressed(with_address, "02_two", REPOSITORY) == with_address
    without = course.addressed(with_address, "02_two", "")
    assert without["cells"][0]["source"] == "# Title\ntext"
    assert "http" not in json.dumps(without)
    assert without == course.addressed(titled(), "02_two", "")
    compile(without["cells"][1]["source"], "set-up", "exec")


def test_a_set_up_cell_of_another_form_is_refused():
    with pytest.raises(course.Refusal, match="set-up cell of 02_two"):
        course.addressed(notebook_of(code("try:\n    import gm_utils\nfinally:\n    pass")), "02_two", REPOSITORY)


def test_the_setting_is_read_and_checked(place):
    settings = place / "pyproject.toml"
    for text, expected in [("", ""), (f"{REPOSITORY}.git", REPOSITORY), (f"{REPOSITORY}/", REPOSITORY)]:
        settings.write_text(f'[tool.course]\nrepository = "{text}"\n')
        assert course.repository_setting(place) == expected
    settings.write_text('[tool.course]\nrepository = "git@github.com:someone/some-course"\n')
    with pytest.raises(course.Refusal, match="expected"):
        course.repository_setting(place)


@pytest.mark.parametrize(
    ("lane", "steps", "once"),
    [("default", ["ruff", "mypy", "pytest"], True), ("colab", ["pytest"], False), ("newest", ["pytest"], False)],
)
def test_what_does_not_hang_on_versions_is_tested_in_one_lane(monkeypatch, lane, steps, once):
    ran = []
    monkeypatch.setattr(course, "environment", lambda *what: sys.executable)
    monkeypatch.setattr(course, "run_step", lambda name, command, variables: not ran.append(command))
    assert course.test(["--lane", lane, "-x"]) == 0
    assert [command[2] for command in ran] == steps
    assert ("not once" not in ran[-1]) == once
    assert ran[-1][ran[-1].index("--dist") + 1] == "loadscope"  # or the cells of a notebook lose their kernel
    assert ran[-1][-1] == "-x"


@pytest.fixture
def small_package(place):
    (place / "gm_utils" / "part").mkdir(parents=True)
    (place / "gm_utils" / "__init__.py").write_text("from gm_utils.part import word\n")
    (place / "gm_utils" / "part" / "__init__.py").write_text('word = "été"\n', encoding="utf-8")
    return place / "gm_utils"


def test_a_copy_brings_the_package_into_an_empty_folder(place, small_package):
    notebook = course.uploadable(titled(), "02_two", small_package, "")
    nbformat.validate(nbformat.from_dict(notebook))
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert kinds == ["markdown", "code", "code"]
    carrier, setup = notebook["cells"][1:]
    assert carrier["metadata"] == {"cellView": "form", "jupyter": {"source_hidden": True}}
    assert setup == course.addressed(titled(), "02_two", "")["cells"][1]
    empty, scratch = place / "empty", place / "scratch"
    empty.mkdir()
    scratch.mkdir()
    variables = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch), "PYTHONUTF8": "1"}
    cells = carrier["source"] + "\n" + setup["source"]
    last = "print(gm_utils.word, '_unpack' in dir())"
    (place / "page.py").write_text("\n".join([cells, cells, last]), encoding="utf-8")
    for _ in ("first kernel", "after a restart"):
        status, out, err = call("-I", "-S", "-X", "utf8", place / "page.py", cwd=empty, env=variables)
        assert (status, out) == (0, "été False\n"), err
    assert list(empty.iterdir()) == []
    (place / "page.py").write_text(setup["source"], encoding="utf-8")
    status, _, err = call("-I", "-S", "-X", "utf8", place / "page.py", cwd=empty, env=variables)
    assert status == 1
    assert "gm_utils is missing" in err


def test_the_carrying_cell_holds_the_whole_package():
    source = course.carrying_cell(ROOT / "gm_utils")["source"]
    packed = re.search(r'"""\n(.*)\n"""', source, re.DOTALL)[1]
    files = json.loads(zlib.decompress(base64.b64decode(packed)))
    carried = [path for path in (ROOT / "gm_utils").iterdir() if path.is_file()]
    expected = {f"gm_utils/{path.name}": path.read_text(encoding="utf-8") for path in carried}
    assert files == expected
    assert len(source) < sum(map(len, files.values())) / 2


@pytest.mark.parametrize(("status", "changed", "expected"), [(0, False, 0), (1, False, 1), (0, True, 1)])
def test_the_check_runs_every_copy_alone_and_watches_what_is_installed(
    place, small_package, monkeypatch, status, changed, expected
):
    names = [write(place / "notebooks", name, code(SETUP)).name for name in ("02_two", "03_three", "mock_paper")]
    (place / "pyproject.toml").write_text("")
    states, ran = iter(["jax==1", "jax==2" if changed else "jax==1"]), []
    monkeypatch.setattr(course, "ROOT", place)
    monkeypatch.setattr(course, "environment", lambda name, extras: name)
    monkeypatch.setattr(course, "distributions", lambda python: next(states))
    monkeypatch.setattr(course, "execute_in", lambda *what, **how: ran.append(what) or status)
    assert course.colab(["--check"]) == expected
    ((lane, paths, options),) = ran
    assert lane == "colab"
    assert [path.relative_to(place / "dist" / "colab").as_posix() for path in paths] == names
    assert (options["offline"], options["bare"], options["times"]) == (True, True, 2)


def test_what_the_tests_of_a_lane_compiled_serves_the_copies(place, small_package, monkeypatch):
    write(place / "notebooks", "02_two", code(SETUP))
    (place / "pyproject.toml").write_text("")
    kept, given = place / "kept", []
    monkeypatch.setattr(course, "ROOT", place)
    monkeypatch.setattr(course, "environment", lambda name, extras: Path(name))
    monkeypatch.setattr(course, "distributions", lambda python: "jax==1")
    monkeypatch.setattr(course.subprocess, "call", lambda command, cwd, env: given.append(env) or 0)
    monkeypatch.setattr(course, "execute_in", lambda *what, compiled, processes: given.append(compiled) or 0)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "of the user")
    assert course.main(["test", "--lane", "colab", "--compiled", str(kept)]) == 0
    assert course.main(["colab", "--check", "--compiled", str(kept)]) == 0
    assert course.main(["test", "--lane", "colab"]) == 0
    with_folder, folder, without = given
    assert with_folder["JAX_COMPILATION_CACHE_DIR"] == str(folder) == str(kept)
    assert "JAX_COMPILATION_CACHE_DIR" not in without


def test_what_is_installed_is_listed_with_versions():
    assert f"'nbformat=={nbformat.__version__}'" in course.distributions(Path(sys.executable))


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem[:4])
def test_an_address_leads_from_every_page_to_the_page_and_the_package(path):
    stored = json.loads(path.read_text(encoding="utf-8"))
    notebook = course.addressed(stored, path.stem, REPOSITORY)
    title, setup = course.text_of(notebook["cells"][0]["source"]), course.setup_cell(notebook)["source"]
    colab = "https://colab.research.google.com/"
    picture, target = re.match(r"\[!\[Open in Colab\]\((\S+)\)\]\((\S+)\)\n\n# ", title).groups()
    assert picture == f"{colab}assets/colab-badge.svg"
    inside = target.removeprefix(f"{colab}github/{REPOSITORY.removeprefix('https://github.com/')}/blob/main/")
    assert ROOT / inside == path
    assert [line.strip() for line in setup.splitlines() if "%" in line] == [f"%pip install --quiet git+{REPOSITORY}"]
    # The committed page follows the setting as it is.
    followed = course.addressed(stored, path.stem, course.repository_setting(ROOT))["cells"]
    assert list(map(course.text_of, (cell["source"] for cell in followed))) == list(
        map(course.text_of, (cell["source"] for cell in stored["cells"]))
    )


def test_ten_notebooks_and_every_place_that_the_readme_names_are_there():
    assert len(NOTEBOOKS) == 10
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"\]\(([^)\s]+)\)", text))
    assert {f"notebooks/{path.name}" for path in NOTEBOOKS} <= targets
    assert [target for target in targets if not (ROOT / target).is_file()] == []
    for command in re.findall(r"course\.py (\w+)", text):
        assert command in course.COMMANDS


# Running


def test_a_restart_is_a_fresh_kernel_in_the_same_folder(place):
    source = "from pathlib import Path\nprint(Path('mine').exists(), 'again' in dir())\nPath('mine').touch()\nagain = 1"
    path = write(place, "02_two", code(source))
    for times, seen in ((1, "False False\n"), (2, "True False\n")):
        notebook, _, _, error = course.execute(path, timeout=60, offline=False, bare=False, times=times)
        assert error == ""
        assert notebook.cells[0].outputs[0].text == seen


@posix
def test_processes_share_the_notebooks_and_one_failure_fails_all(place, monkeypatch, capfd):
    python = script(place / "python", 'shift 3; echo "$# $@"; [ "$1" != bad ]')
    monkeypatch.setattr(course, "environment", lambda name, extras: python)
    for names, status in ((["a", "b", "c"], 0), (["a", "bad", "c"], 1), (["bad"], 1)):
        assert course.execute_in("default", list(map(Path, names)), {}, compiled=None, processes=2) == status
        shares = sorted(capfd.readouterr().out.splitlines()[1:])
        assert shares == sorted(f"{len(names[k::2])} {' '.join(names[k::2])}" for k in (0, 1))


def test_the_guard_refuses_the_world_and_lets_the_machine_talk_to_itself(place):
    (place / "sitecustomize.py").write_text(course.GUARD.replace("PROGRAMS_TOO = False", "PROGRAMS_TOO = True"))
    body = """
import socket, subprocess, sys
for attempt in (lambda: socket.create_connection(("192.0.2.1", 80), 1), lambda: socket.getaddrinfo("example.org", 80),
                lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 53)),
                lambda: socket.gethostbyname("example.org"), lambda: subprocess.run([sys.executable, "-c", ""])):
    try:
        attempt()
    except PermissionError as error:
        assert "offline" in str(error)
    else:
        raise SystemExit("let through")
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(("localhost", server.getsockname()[1])).close()
""" + course.PROBE.replace("BARE", "False")
    status, out, err = call("-W", "ignore", "-c", body, env={**os.environ, "PYTHONPATH": str(place)})
    assert status == 0, err
    assert "attempts refused" in out


def test_the_probe_notices_an_open_network():
    opened = "import socket; socket.create_connection = socket.getaddrinfo = lambda *place: None\n"
    status, _, err = call("-c", opened + course.PROBE.replace("BARE", "False"))
    assert status == 1
    assert "the network is not blocked" in err


def test_running_prints_a_table_and_stores_only_what_ran(place):
    good = write(place, "02_good", code(SETUP), code("print('fine')"))
    bad = write(place, "03_bad", code("import urllib.request as u\nu.urlopen('http://192.0.2.1')"))
    out = place / "out"
    out.mkdir()
    options = {"timeout": 60, "offline": True, "bare": False, "times": 1, "commit": True, "out": str(out)}
    before = good.read_bytes()
    variables = {**course.children_environment(), "PYTHONPATH": str(ROOT)}
    status, table, err = call(ROOT / "course.py", "_run", json.dumps(options), good, bad, env=variables)
    assert status == 1
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert lines["02_good"][2:] == ["ok"]
    assert lines["03_bad"][2:] == ["FAIL"]
    assert float(lines["02_good"][0]) > 0
    assert float(lines["02_good"][1]) > 10
    assert "no network, got 192.0.2.1" in err
    assert [path.name for path in out.iterdir()] == ["02_good.ipynb"]
    assert good.read_bytes() == before
    stored = nbformat.read(out / "02_good.ipynb", as_version=4)
    assert stored.cells[1].outputs == [stream("fine\n")]
    assert [cell.execution_count for cell in stored.cells] == [1, 2]


def test_no_notebooks_is_no_error(checkout, capsys):
    assert course.main(["run"]) == 0
    assert course.main(["colab"]) == 0
    assert capsys.readouterr().out.count("no notebooks yet") == 2


def test_outputs_are_committed_from_one_lane_only(capsys):
    assert course.main(["run", "--commit", "--lane", "colab"]) == 1
    assert "lane default only" in capsys.readouterr().err
