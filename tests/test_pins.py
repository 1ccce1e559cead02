"""The three lists of dependencies say the same thing, and Colab's own versions satisfy them."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import course

ROOT = Path(__file__).parent.parent
FILES = ("pyproject.toml", "requirements.txt", "environment.yml")
# What conda takes for a package: a name in small letters, then perhaps limits; one "=" stands for a whole series.
LIMIT = r"(==?|[<>!]=|[<>])\d[\da-z._]*"
SPEC = rf"[a-z\d_][a-z\d_.-]*({LIMIT}(,{LIMIT})*)?"


def texts():
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}


def pinned(text):
    """Return name -> version of every ``name==version`` line, environment markers left out."""
    lines = (re.sub(r"\s+#.*|;.*", "", line).strip() for line in text.splitlines() if not line.startswith("#"))
    return {canonicalize_name(line.split("==")[0]): line.partition("==")[2] for line in lines if line}


def ranges(requirements):
    """Return name -> set of specifiers, several mentions of a name taken together."""
    found = {}
    for requirement in map(Requirement, requirements):
        found.setdefault(canonicalize_name(requirement.name), set()).update(map(str, requirement.specifier))
    return found


def tightest(specifiers):
    """Return the specifiers that remain when of several lower limits only the highest counts."""
    floors = sorted((s for s in specifiers if s.startswith(">=")), key=lambda s: Version(s[2:]))
    return {s for s in specifiers if not s.startswith(">=")} | set(floors[-1:])


def disagreements(files):
    """List every way in which pyproject.toml, requirements.txt and environment.yml differ."""
    found = []
    project = tomllib.loads(files["pyproject.toml"])["project"]
    extras = project["optional-dependencies"]
    declared = ranges([*project["dependencies"], *(need for needs in extras.values() for need in needs)])
    if set(extras) != {"lab", "test"}:
        found.append(f"extras are {sorted(extras)}, and course.py installs lab and test")

    pins = pinned(files["requirements.txt"])
    for name, version in pins.items():
        if not re.fullmatch(r"[0-9][\w.!+]*", version):
            found.append(f"requirements.txt: {name} has no exact version")
    for name, specifiers in declared.items():
        if name not in pins:
            found.append(f"requirements.txt lacks {name}")
        elif not Requirement(f"{name}{','.join(specifiers)}").specifier.contains(pins[name]):
            found.append(f"requirements.txt: {name} {pins[name]} is outside {specifiers}")

    recipe = yaml.safe_load(files["environment.yml"])
    if set(recipe) != {"name", "channels", "dependencies"} or recipe["channels"] != ["conda-forge"]:
        found.append("environment.yml: expected a name, the channel conda-forge, dependencies, and nothing else")
    *plain, last = recipe["dependencies"]
    by_pip = last["pip"] if isinstance(last, dict) and set(last) == {"pip"} else []
    if "pip" not in plain or not by_pip:
        found.append("environment.yml: expected pip among the dependencies, and what it installs at the end")
    unread = [entry for entry in plain if not re.fullmatch(SPEC, str(entry))]
    if unread:
        return [*found, f"environment.yml: conda cannot read {unread}"]
    if any(entry.startswith("-r") for entry in by_pip):
        found.append("environment.yml refers to another file")
    if "-e ." not in by_pip:
        found.append("environment.yml does not install gm_utils")
    python = [entry for entry in plain if re.match(r"python\b", entry)]
    if python != ["python=" + project["requires-python"].removeprefix(">=")]:
        found.append(f"environment.yml: {python} is not the oldest Python of pyproject.toml")
    named = [entry for entry in plain if entry not in ("pip", *python)]
    conda = ranges([*named, *(entry for entry in by_pip if not entry.startswith("-"))])
    for name in sorted(declared.keys() | conda.keys()):
        if name not in conda:
            found.append(f"environment.yml lacks {name}")
        elif name not in declared:
            found.append(f"environment.yml: {name} is not in pyproject.toml")
        elif tightest(declared[name]) != tightest(conda[name]):
            found.append(f"environment.yml: {name} {conda[name]} differs from {declared[name]}")

    for file in ("requirements.txt", "environment.yml"):
        lines = files[file].splitlines()
        found += [f"{file} holds an address: {line}" for line in lines if "//" in line or " @ " in line]
    return found


def test_the_three_lists_agree():
    assert disagreements(texts()) == []


@pytest.mark.parametrize(("file", "old", "new", "complaint"), [
    ("requirements.txt", r"^optax==.*$", "", "requirements.txt lacks optax"),
    ("requirements.txt", r"^flax==.*$", "flax==0.9.0", "flax 0.9.0 is outside"),
    ("requirements.txt", r"^six==.*$", "six>=1", "six>=1 has no exact version"),
    ("requirements.txt", r"^six==.*$", "six @ https://example.org/six.whl", "holds an address"),
    ("requirements.txt", r"^absl-py", "--index-url https://example.org/simple\nabsl-py", "holds an address"),
    ("environment.yml", r"^  - optax.*$", "", "environment.yml lacks optax"),
    ("environment.yml", r"optax>=[\d.]+", "optax>=0.1", "optax {'>=0.1'} differs"),
    ("environment.yml", r"^  - pip:", "  - torch>=2\n  - pip:", "torch is not in pyproject.toml"),
    ("environment.yml", r"- -e \.", "- -r requirements.txt", "refers to another file"),
    ("environment.yml", r"- -e \.", "- numpy>=1.26", "does not install gm_utils"),
    ("environment.yml", r"python=3\.11", "python=3.10", "not the oldest Python"),
    ("environment.yml", r"- conda-forge", "- defaults", "the channel conda-forge"),
    ("environment.yml", r"\Z", "prefix: here\n", "nothing else"),
    ("environment.yml", r"^  - pip$", "", "expected pip among"),
    ("environment.yml", r"^  - pip:(.|\n)*", "", "what it installs at the end"),
    ("environment.yml", r"optax>=[\d.]+", "optax[all]>=0.2.6", "conda cannot read ['optax[all]>=0.2.6']"),
    ("environment.yml", r"optax>=[\d.]+", "optax ~> 0.2.6", "conda cannot read ['optax ~> 0.2.6']"),
    ("environment.yml", r"optax>=[\d.]+", "optax: 0.2.6", "conda cannot read [{'optax': '0.2.6'}]"),
    ("pyproject.toml", r'"scipy>=[\d.]+",', '"scipy>=99",', "outside {'>=99'}"),
    ("pyproject.toml", r'"scipy>=[\d.]+",', '"scipy>=1.13", "einops>=0.8",', "requirements.txt lacks einops"),
    ("pyproject.toml", r'^test = \[', 'docs = ["sphinx"]\ntest = [', "extras are ['docs', 'lab', 'test']"),
])  # fmt: skip
def test_a_planted_fault_is_found(file, old, new, complaint):
    files = texts()
    files[file], changed = re.subn(old, new, files[file], count=1, flags=re.MULTILINE)
    assert changed == 1
    assert any(complaint in found for found in disagreements(files)), disagreements(files)


def colab(name):
    return pinned((ROOT / "tests" / name).read_text(encoding="utf-8"))


def test_installing_the_package_moves_nothing_on_colab():
    theirs = colab("colab-2026-08.txt")
    project = tomllib.loads(texts()["pyproject.toml"])["project"]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(course.LANES["colab"].python)
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(theirs[canonicalize_name(requirement.name)]), requirement


def test_what_the_tests_add_on_colab_replaces_nothing():
    added = colab("colab-tests.txt")
    assert not added.keys() & colab("colab-2026-08.txt").keys()
    assert {"hypothesis", "nbval", "numpyro"} <= added.keys()


def test_the_lanes_are_the_ones_described():
    pins = pinned(texts()["requirements.txt"])
    assert (pins["jax"], pins["flax"]) == ("0.10.2", "0.12.8")
    assert pins["jupyterlab"].startswith("4.6.")
    assert (colab("colab-2026-08.txt")["jax"], colab("colab-2026-08.txt")["flax"]) == ("0.7.2", "0.11.2")
