"""Real data, without a download: what scikit-learn's wheel contains, and MNIST from files the reader has.

>>> tabular("iris").train.shape, tabular("iris").test.shape
((105, 4), (45, 4))
"""

import importlib.util
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gm_utils.validation import refuse

_TABLES = {"breast_cancer": "breast_cancer.csv", "wine": "wine_data.csv", "iris": "iris.csv"}
_MNIST_FILES = ("mnist_train_small.csv", "mnist_test.csv")
_PIXELS = 28 * 28


class Split(NamedTuple):
    """A data set in two parts that share no row.

    Attributes:
        train: (n_train, features) float32.
        test: (n_test, features) float32.
        train_labels: (n_train,) int32.
        test_labels: (n_test,) int32.
    """

    train: jax.Array
    test: jax.Array
    train_labels: jax.Array
    test_labels: jax.Array


def digits() -> Split:
    """Return scikit-learn's 1,797 handwritten digits, 8x8 pixels flattened by rows to 64 grey levels 0, 1, ..., 16.

    The rows are shuffled by NumPy's ``RandomState(0)``, the same everywhere; the last 297 are the test part.
    Labels are the digits 0 to 9. Source: the test set of UCI's optical recognition of handwritten digits.
    """
    images, labels = _table("digits.csv.gz")
    return _split(images, labels, test_rows=297)


def digits_binary() -> Split:
    """Return ``digits()`` in black and white: 1 where the grey level is 8 or more, else 0.

    The threshold is fixed, so a pixel has one value. Averages in nats compare only with models of these same pixels.
    """
    grey = digits()
    train, test = ((part >= 8).astype(jnp.float32) for part in (grey.train, grey.test))
    return grey._replace(train=train, test=test)


def tabular(name: str, *, standardised: bool = False) -> Split:
    """Return a table of scikit-learn by name: "breast_cancer" (569, 30), "wine" (178, 13) or "iris" (150, 4).

    The rows are shuffled by NumPy's ``RandomState(0)``; the last 30 %, rounded, are the test part.

    Args:
        name: the table.
        standardised: subtract each feature's mean and divide by its standard deviation, both over the train part.
            A log density of the standardised features exceeds that of the raw ones by the sum of the log deviations.

    Raises:
        ValueError: for another name.
    """
    if name not in _TABLES:
        raise refuse("name", f"to be one of {', '.join(_TABLES)}", repr(name))
    features, labels = _table(_TABLES[name], skip=1)
    test_rows = round(0.3 * len(labels))
    if standardised:
        train = features[_shuffle(len(labels))[:-test_rows]]
        features = (features - train.mean(axis=0)) / train.std(axis=0)
    return _split(features, labels, test_rows)


def photo_patches() -> Split:
    """Return 8x8 patches of scikit-learn's two sample photographs in 63 dimensions, 26,670 to train on, 6,510 to test.

    As for BSDS300 in section 4.2 of Papamakarios, Pavlakou and Murray (2017, arXiv:1705.07057): grey levels 0 to 255
    get uniform noise on [0, 1) and are divided by 256; each patch loses its own mean and then its last (bottom right)
    pixel, which the other 63 determine. Here the grey level is 0.299 R + 0.587 G + 0.114 B, rounded; the noise is drawn
    once for each pixel by NumPy's ``RandomState(0)``; patches start at every fourth row and column.
    Both photographs are 427 pixels high and 640 wide. Train patches lie in columns 0 to 511, test patches in columns
    512 to 639: no pixel is in both. Labels: 0 for china.jpg, 1 for flower.jpg.
    """
    from matplotlib.image import imread

    noise = np.random.RandomState(0)
    train, test = [], []
    for photograph in (imread(_file("images", name)) for name in ("china.jpg", "flower.jpg")):
        levels = np.rint(photograph @ np.array([0.299, 0.587, 0.114]))
        grey = (levels + noise.uniform(size=levels.shape)) / 256
        train.append(_patches(grey[:, :512]))
        test.append(_patches(grey[:, 512:]))
    train_labels, test_labels = (np.repeat([0, 1], [len(patches) for patches in part]) for part in (train, test))
    return _to_jax(np.concatenate(train), np.concatenate(test), train_labels, test_labels)


def mnist(path: str | Path | None = None) -> Split:
    """Return MNIST from comma-separated files without a header: a label, then 784 grey levels 0 to 255 by rows.

    Args:
        path: a folder that holds ``mnist_train_small.csv`` and ``mnist_test.csv``, which become the two parts, in the
            files' order; or one such file, shuffled by NumPy's ``RandomState(0)``, whose last sixth is the test part.
            Without a path, Colab's own ``sample_data`` (20,000 and 10,000 rows), in the working folder or in
            ``/content``.

    Raises:
        ValueError: for a missing or empty file, and for a line with another number of values, with a value that is not
            a whole number or with one out of range; the message names the line. Empty lines are skipped.
    """
    places = [Path("sample_data"), Path("/content/sample_data")] if path is None else [Path(path).expanduser()]
    if places[0].is_file():
        labels, images = _read_mnist(places[0])
        if len(labels) < 2:
            raise refuse(str(places[0]), "to hold at least two rows, to be split", len(labels))
        return _split(images, labels, test_rows=max(1, len(labels) // 6))
    for place in places:
        if all((place / name).is_file() for name in _MNIST_FILES):
            (train_labels, train), (test_labels, test) = (_read_mnist(place / name) for name in _MNIST_FILES)
            return _to_jax(train, test, train_labels, test_labels)
    missing = ", ".join(str(place / name) for place in places for name in _MNIST_FILES if not (place / name).is_file())
    raise refuse("path", f"to be a CSV file or a folder that holds {' and '.join(_MNIST_FILES)}", f"no file {missing}")


def _file(folder: str, name: str) -> Path:
    """Return the path of a file that comes with scikit-learn; importing it for that would cost 100 MB and a second."""
    package = importlib.util.find_spec("sklearn")
    path = Path(package.origin or "").parent / "datasets" / folder / name if package else Path(name)
    if not path.is_file():
        raise refuse("scikit-learn", f"to be installed, with its file datasets/{folder}/{name}", f"no file {path}")
    return path


def _table(name: str, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, features) and labels (n,), the last column, of one of scikit-learn's tables."""
    table = np.loadtxt(_file("data", name), delimiter=",", skiprows=skip)
    return table[:, :-1], table[:, -1].astype(int)


def _read_mnist(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and images (n, 784); on any fault, look for the line and raise."""
    try:
        with warnings.catch_warnings(), file.open(encoding="utf-8-sig") as lines:
            warnings.simplefilter("error")  # NumPy only warns of an empty file
            table = np.loadtxt(lines, dtype=np.int16, delimiter=",", comments=None, ndmin=2)
    except (ValueError, UserWarning) as fault:
        raise _fault(file) from fault
    labels, images = table[:, 0], table[:, 1:]
    if images.shape[1] != _PIXELS or table.min() < 0 or labels.max() > 9 or images.max() > 255:
        raise _fault(file)
    return labels, images


def _fault(file: Path) -> ValueError:
    """Return the error that names the first faulty line of ``file``."""
    levels = {str(level) for level in range(256)}
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            values = line.strip().split(",")
            if values == [""] or (len(values) == 1 + _PIXELS and levels.issuperset(values) and int(values[0]) <= 9):
                continue
            if len(values) != 1 + _PIXELS:
                place, expected = f"line {number} of {file}", f"to hold a label and {_PIXELS} pixels"
                return refuse(place, expected, f"{len(values)} values")
            for column, value in enumerate(values):
                name, highest = (f"pixel {column}", 255) if column else ("the label", 9)
                if not re.fullmatch("[0-9]+", value.strip()) or int(value) > highest:
                    place, expected = f"{name} in line {number} of {file}", f"to be a whole number 0 to {highest}"
                    return refuse(place, expected, repr(value))
    return refuse(str(file), "to hold rows of numbers", "none")


def _patches(grey: np.ndarray) -> np.ndarray:
    """Return the 8x8 patches of a picture, four pixels apart, less their mean and their last pixel: (n, 63)."""
    patches = np.lib.stride_tricks.sliding_window_view(grey, (8, 8))[::4, ::4].reshape(-1, 64)
    return (patches - patches.mean(axis=1, keepdims=True))[:, :-1]


def _shuffle(rows: int) -> np.ndarray:
    """Return a fixed permutation. NumPy keeps the stream of ``RandomState`` the same in all versions."""
    return np.random.RandomState(0).permutation(rows)


def _split(features: np.ndarray, labels: np.ndarray, test_rows: int) -> Split:
    order = _shuffle(len(labels))
    train, test = order[:-test_rows], order[-test_rows:]
    return _to_jax(features[train], features[test], labels[train], labels[test])


def _to_jax(train: np.ndarray, test: np.ndarray, train_labels: np.ndarray, test_labels: np.ndarray) -> Split:
    return Split(
        jnp.asarray(train, jnp.float32),
        jnp.asarray(test, jnp.float32),
        jnp.asarray(train_labels, jnp.int32),
        jnp.asarray(test_labels, jnp.int32),
    )
