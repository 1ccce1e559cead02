"""The densities against quadrature, samples and second derivations; the real data against scikit-learn."""

import functools
import subprocess
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from sklearn import datasets as sklearn_datasets
from sklearn import preprocessing

from gm_utils import data, datasets
from gm_utils.precision import float64

# Each density with a box (left, right, bottom, top) that holds all of it but for about 1e-6.
BOXES = {
    "two_moons": (-2, 3, -1.5, 2),
    "eight_gaussians": (-4, 4, -4, 4),
    "ring": (-4, 4, -4, 4),
    "pinwheel": (-6, 6, -6, 6),
    "checkerboard": (-5, 5, -5, 5),
    "banana": (-8, 40, -12, 12),
}
ALL = pytest.mark.parametrize("name", BOXES)


SIDE = 240  # cells a side of every grid; a sample has as many points, so that each density compiles once
COUNT = SIDE**2


def midpoints(box):
    """The centres of the cells of a grid, (COUNT, 2), first axis x1, and the area of a cell."""
    left, right, bottom, top = box
    steps = (right - left) / SIDE, (top - bottom) / SIDE
    centres = np.arange(SIDE) + 0.5
    grid = np.meshgrid(left + steps[0] * centres, bottom + steps[1] * centres, indexing="ij")
    return np.stack(grid, axis=-1).reshape(-1, 2), steps[0] * steps[1]


@functools.cache
def compiled(name):
    return jax.jit(getattr(data, name).log_prob)


def masses(name, box):
    """The probability of every cell of a grid, in float64."""
    points, area = midpoints(box)
    return np.exp(np.asarray(compiled(name)(points), np.float64)) * area


@ALL
def test_the_density_integrates_to_one(name):
    assert masses(name, BOXES[name]).sum() == pytest.approx(1, abs=5e-6)


@ALL
def test_samples_have_the_entropy_promised(name):
    density = getattr(data, name)
    surprise = -np.asarray(compiled(name)(density.sample(jax.random.key(1), COUNT)), np.float64)
    assert abs(surprise.mean() - density.entropy) <= 4 * surprise.std() / np.sqrt(COUNT) + 1e-6


@ALL
def test_samples_fall_where_the_density_says(name):
    """Pearson's chi-square over 12 x 12 bins of the extent and the rest of the plane."""
    density, bins = getattr(data, name), 12
    cells = masses(name, density.extent)
    assert 0.998 < cells.sum() < 1 + 1e-5
    expected = COUNT * cells.reshape(bins, SIDE // bins, bins, SIDE // bins).sum(axis=(1, 3)).ravel()
    x = np.asarray(density.sample(jax.random.key(2), COUNT))
    left, right, bottom, top = density.extent
    counts = np.histogram2d(x[:, 0], x[:, 1], bins, [(left, right), (bottom, top)])[0].ravel()
    # Small bins go with the outside; those together still may be too few for a bin of their own.
    large = expected > 10
    expected = np.append(expected[large], COUNT - expected[large].sum())
    counts = np.append(counts[large], COUNT - counts[large].sum())
    if expected[-1] < 10:
        expected, counts = np.append(expected[:-2], expected[-2:].sum()), np.append(counts[:-2], counts[-2:].sum())
    assert stats.chisquare(counts, expected).pvalue > 1e-3


@ALL
def test_shapes_types_and_keys(name):
    density = getattr(data, name)
    x = density.sample(jax.random.key(3), 7)
    assert x.shape == (7, 2)
    assert x.dtype == jnp.float32
    assert (x == density.sample(jax.random.key(3), 7)).all()
    assert (x != density.sample(jax.random.key(4), 7)).any()
    log_p = density.log_prob(x)
    assert log_p.shape == (7,)
    assert log_p.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(density.log_prob)(x), log_p, rtol=1e-5, atol=1e-5)
    assert density.log_prob(np.array([[1, 2]])) == density.log_prob(jnp.array([[1.0, 2.0]]))
    assert isinstance(density.entropy, float)
    assert repr(density) == f"{name.title().replace('_', '')}()"


@ALL
def test_no_nan_far_out_and_none_in_gradients(name):
    density = getattr(data, name)
    far = compiled(name)(jnp.array([[1e6, -1e6], [-1e4, 0.0], [0.0, 1e3]]))
    assert (far < -100).all()
    points = jnp.array([[0.0, 0.0], [1.0, 1.0], [50.0, -30.0]])
    gradient = jax.jit(jax.grad(lambda x: density.log_prob(x).sum()))(points)
    assert jnp.isfinite(gradient).all()
    assert jnp.isnan(compiled(name)(jnp.array([[jnp.nan, 0.0], [0.0, jnp.nan], [jnp.nan, jnp.nan]]))).all()


@ALL
def test_refusals_of_densities(name):
    density = getattr(data, name)
    with pytest.raises(ValueError, match=r"expected x of shape \(batch, 2\), got \(100, 3\)"):
        density.log_prob(jnp.zeros((100, 3)))
    with pytest.raises(ValueError, match=r"expected x of shape \(batch, 2\), got \(2,\)"):
        jax.jit(density.log_prob)(jnp.zeros(2))
    for n in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match=f"expected n to be a whole number above zero, got {n}"):
            density.sample(jax.random.key(0), n)


def test_banana_against_scipy():
    x = np.asarray(data.banana.sample(jax.random.key(5), 100), np.float64)
    expected = stats.norm(0, 2).logpdf(x[:, 1]) + stats.norm(x[:, 1] ** 2 / 4, 1).logpdf(x[:, 0])
    np.testing.assert_allclose(data.banana.log_prob(x), expected, rtol=1e-5, atol=1e-5)


def test_eight_gaussians_against_scipy():
    x = np.random.default_rng(0).uniform(-4, 4, (100, 2))
    angles = np.arange(8) * np.pi / 4
    centres = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    density = np.mean([stats.multivariate_normal(centre, 0.25**2).pdf(x) for centre in centres], axis=0)
    np.testing.assert_allclose(data.eight_gaussians.log_prob(x), np.log(density), rtol=1e-5, atol=2e-5)


def blurred_curve(curve, std, low, high, x):
    """log of the mean over t in [low, high] of N(x; curve(t), std^2), the maximum taken out, by adaptive quadrature."""
    t = np.linspace(low, high, 2001)
    squares = ((x - curve(t)) ** 2).sum(axis=-1)
    nearest = t[squares.argmin()]
    shift = squares.min()

    def integrand(s):
        return np.exp(-(((x - curve(np.array(s))) ** 2).sum() - shift) / (2 * std**2))

    total = integrate.quad(integrand, low, high, points=[nearest], limit=500, epsabs=0, epsrel=1e-11)[0]
    return np.log(total / (high - low)) - shift / (2 * std**2) - np.log(2 * np.pi * std**2)


def circle(t):
    return np.stack([np.cos(t), np.sin(t)], axis=-1)


@pytest.mark.parametrize("reach", [2, 8])
def test_two_moons_against_adaptive_quadrature(reach):
    x = np.random.default_rng(1).uniform(-reach, reach, (15, 2)) / np.sqrt(2)
    expected = [
        np.logaddexp(
            blurred_curve(circle, 0.1, 0, np.pi, point),
            blurred_curve(lambda t: np.array([1, 0.5]) - circle(t), 0.1, 0, np.pi, point),
        )
        - np.log(2)
        for point in x
    ]
    with float64():
        np.testing.assert_allclose(data.two_moons._log_density(jnp.asarray(x)), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(data.two_moons.log_prob(x), expected, rtol=2e-6, atol=1e-5)


def test_two_moons_keeps_its_relative_error_far_out():
    points = np.array([[100.0, 3.0], [-70.0, -50.0], [5.0, 1000.0]])
    angles = np.linspace(0, np.pi, 100_001)
    for point in points:
        squares = [((point - moon) ** 2).sum(axis=-1) for moon in (circle(angles), np.array([1, 0.5]) - circle(angles))]
        terms = -np.concatenate(squares) / (2 * 0.1**2)
        expected = terms.max() + np.log(np.exp(terms - terms.max()).mean()) - np.log(2 * np.pi * 0.1**2)
        assert float(data.two_moons.log_prob(point[None])[0]) == pytest.approx(expected, rel=1e-5)


def test_ring_against_adaptive_quadrature():
    x = np.concatenate([np.random.default_rng(2).uniform(-4, 4, (15, 2)), [[0.0, 0.0]]])
    expected = [blurred_curve(lambda t: 2 * circle(t), 0.2, -np.pi, np.pi, point) for point in x]
    np.testing.assert_allclose(data.ring.log_prob(x), expected, rtol=2e-6, atol=1e-5)


def twist_by_hand(v):
    """One arm's map, written with a rotation matrix."""
    turn = 0.5 * jnp.sqrt(jnp.sum(v**2))
    return jnp.array([[jnp.cos(turn), -jnp.sin(turn)], [jnp.sin(turn), jnp.cos(turn)]]) @ v


def test_pinwheel_by_change_of_variables():
    """Push points through arm 0. The other arms reach the same point from v turned back by their own angle."""
    v = np.random.default_rng(3).uniform(-4, 4, (50, 2)).astype(np.float32)
    x, jacobian = jax.jit(jax.vmap(lambda v: (twist_by_hand(v), jax.jacfwd(twist_by_hand)(v))))(v)
    log_det = np.log(np.abs(np.linalg.det(np.asarray(jacobian, np.float64))))
    angles = 2 * np.pi / 5 * np.arange(5)
    turned = [v @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles]
    arm = stats.multivariate_normal([2, 0], np.diag([0.5**2, 0.2**2]))
    log_untwisted = np.logaddexp.reduce([arm.logpdf(points) for points in turned]) - np.log(5)
    np.testing.assert_allclose(data.pinwheel.log_prob(x), log_untwisted - log_det, rtol=1e-5, atol=3e-4)


def test_checkerboard_against_its_list_of_squares():
    dark = [(-4, -4), (-4, 0), (0, -4), (0, 0), (-2, -2), (-2, 2), (2, -2), (2, 2)]
    x = np.concatenate([np.random.default_rng(4).uniform(-5, 5, (500, 2)), [[-4, -4], [4, 4], [0, 0], [2, 0], [-6, 0]]])
    inside = np.array([any(a <= x1 < a + 2 and b <= x2 < b + 2 for a, b in dark) for x1, x2 in x])
    np.testing.assert_allclose(data.checkerboard.log_prob(x), np.where(inside, -np.log(32), -np.inf), rtol=1e-6)
    assert jnp.isfinite(compiled("checkerboard")(data.checkerboard.sample(jax.random.key(6), COUNT))).all()


def separable_entropy(centres, weights, std, reach=5, points=700):
    """Entropy of a mixture of round Gaussians on a square grid, the density as a product of two matrices."""
    grid, step = np.linspace(-reach, reach, points, retstep=True)
    factors = [stats.norm.pdf(grid[:, None], centre[None, :], std) for centre in np.transpose(centres)]
    p = (factors[0] * weights) @ factors[1].T
    return -np.sum(p * np.log(np.where(p > 0, p, 1))) * step**2


def test_entropies_by_a_second_route():
    assert data.banana.entropy == pytest.approx(0.5 * np.log(2 * np.pi * np.e * 4) + 0.5 * np.log(2 * np.pi * np.e))
    assert data.checkerboard.entropy == pytest.approx(np.log(32))

    radius = stats.rice(b=2 / 0.2, scale=0.2)
    expected, _ = integrate.quad(lambda r: -radius.pdf(r) * (radius.logpdf(r) - np.log(2 * np.pi * r)), 0.5, 3.6)
    assert data.ring.entropy == pytest.approx(expected, abs=1e-8)

    eight = 2 * circle(np.arange(8) * np.pi / 4)
    assert data.eight_gaussians.entropy == pytest.approx(separable_entropy(eight, np.full(8, 1 / 8), 0.25), abs=1e-8)

    upper = circle((np.arange(2000) + 0.5) * np.pi / 2000)  # midpoint rule, against Gauss-Legendre
    moons = np.concatenate([upper, np.array([1, 0.5]) - upper])
    assert data.two_moons.entropy == pytest.approx(separable_entropy(moons, np.full(4000, 1 / 4000), 0.1), abs=1e-6)


def test_an_entropy_takes_little_memory():
    """The whole grid at once, at 256 centres, would take 250 MB."""
    assert data.TwoMoons().entropy == pytest.approx(data.two_moons.entropy, rel=1e-12)  # SciPy is imported by now
    tracemalloc.start()
    data.TwoMoons()._entropy()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_the_twist_leaves_the_entropy_of_the_pinwheel_unchanged():
    points, area = midpoints((-6, 6, -6, 6))
    arms = []
    for angle in 2 * np.pi / 5 * np.arange(5):
        spoke, across = circle(np.array(angle)), circle(np.array(angle + np.pi / 2))
        covariance = 0.5**2 * np.outer(spoke, spoke) + 0.2**2 * np.outer(across, across)
        arms.append(stats.multivariate_normal(2 * spoke, covariance).logpdf(points))
    log_p = np.logaddexp.reduce(arms) - np.log(5)
    assert data.pinwheel.entropy == pytest.approx(-np.sum(np.exp(log_p) * log_p) * area, abs=1e-8)


def rows(array):
    """The rows as a sorted list, to compare sets of rows."""
    return sorted(map(tuple, np.asarray(array).tolist()))


def check_split(split, features, labels, test_rows):
    assert split.test.shape == (test_rows, features.shape[1])
    for part in split[:2]:
        assert part.dtype == jnp.float32
    for part in split[2:]:
        assert part.dtype == jnp.int32
    both = np.concatenate([split.train, split.test]), np.concatenate([split.train_labels, split.test_labels])
    stored = np.column_stack([features.astype(np.float32), labels])
    assert rows(np.column_stack(both)) == rows(stored)


def test_digits():
    images, labels = sklearn_datasets.load_digits(return_X_y=True)
    split = data.digits()
    check_split(split, images, labels, 297)
    assert split.train.shape == (1500, 64)
    order = np.random.RandomState(0).permutation(1797)
    assert (np.asarray(split.test_labels) == labels[order[1500:]]).all()
    assert set(np.unique(split.train)) == set(range(17))


def test_digits_binary():
    grey, binary = data.digits(), data.digits_binary()
    assert set(np.unique(binary.train)) == {0, 1}
    for before, after in ((grey.train, binary.train), (grey.test, binary.test)):
        assert (np.where(np.asarray(before) > 7.5, 1, 0) == np.asarray(after)).all()
        assert after.dtype == jnp.float32
    assert (binary.test_labels == grey.test_labels).all()


@pytest.mark.parametrize(("name", "test_rows"), [("breast_cancer", 171), ("wine", 53), ("iris", 45)])
def test_tabular(name, test_rows):
    features, labels = getattr(sklearn_datasets, f"load_{name}")(return_X_y=True)
    raw = data.tabular(name)
    check_split(raw, features, labels, test_rows)
    scaled = data.tabular(name, standardised=True)
    np.testing.assert_allclose(np.mean(scaled.train, axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(scaled.train, axis=0), 1, atol=1e-5)
    scaler = preprocessing.StandardScaler().fit(np.asarray(raw.train, np.float64))
    np.testing.assert_allclose(scaled.test, scaler.transform(np.asarray(raw.test, np.float64)), rtol=1e-4, atol=1e-4)


def test_an_unknown_table_is_refused_with_the_names():
    with pytest.raises(ValueError, match="expected name to be one of breast_cancer, wine, iris, got 'titanic'"):
        data.tabular("titanic")


def test_photo_patches():
    split = data.photo_patches()
    assert split.train.shape == (26_670, 63)
    assert split.test.shape == (6_510, 63)
    assert split.train.dtype == jnp.float32
    assert np.bincount(split.train_labels).tolist() == [13_335, 13_335]
    photographs = sklearn_datasets.load_sample_images().images

    def patch_by_hand(photograph, row, column):
        """The patch without noise. The noise moves a pixel by less than 1/256, and so does the mean."""
        patch = photographs[photograph][row : row + 8, column : column + 8].astype(np.float64)
        grey = np.round(patch @ [0.299, 0.587, 0.114]).ravel() / 256
        return (grey - grey.mean())[:-1]

    # 105 rows of patches; 127 columns of them to train on, 31 to test on.
    for part, index, place in (
        (split.train, 0, (0, 0, 0)),
        (split.train, 126, (0, 0, 504)),
        (split.train, 13_335 + 127, (1, 4, 0)),
        (split.test, 0, (0, 0, 512)),
        (split.test, 6_509, (1, 416, 632)),
    ):
        assert np.abs(np.asarray(part[index]) - patch_by_hand(*place)).max() < 1 / 256
    # With the noise, the lost pixel is minus the sum of the others, and no two values tie.
    assert len(np.unique(split.test[0])) == 63
    assert (data.photo_patches().train == split.train).all()


def write_rows(file, table):
    file.write_text("\n".join(",".join(map(str, row)) for row in table) + "\n")


@pytest.fixture
def table():
    rng = np.random.default_rng(5)
    return np.column_stack([rng.integers(0, 10, 12), rng.integers(0, 256, (12, 784))])


@pytest.fixture
def folder(tmp_path, table):
    write_rows(tmp_path / "mnist_train_small.csv", table[:8])
    write_rows(tmp_path / "mnist_test.csv", table[8:])
    return tmp_path


def test_mnist_from_a_folder(folder, table):
    split = data.mnist(folder)
    np.testing.assert_array_equal(split.train, table[:8, 1:])
    np.testing.assert_array_equal(split.test_labels, table[8:, 0])
    assert split.train.dtype == jnp.float32
    assert split.train_labels.dtype == jnp.int32


def test_mnist_from_colab_s_folder(folder, table, monkeypatch):
    (folder / "sample_data").mkdir()
    for name in ("mnist_train_small.csv", "mnist_test.csv"):
        (folder / name).rename(folder / "sample_data" / name)
    monkeypatch.chdir(folder)
    np.testing.assert_array_equal(data.mnist().test, table[8:, 1:])


def test_mnist_from_one_file(tmp_path, table):
    file = tmp_path / "own.csv"
    text = "\r\n".join(",".join(map(str, row)) for row in table)
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\r\n", "\r\n\r\n", 1).encode())  # a mark, CRLF and an empty line
    check_split(data.mnist(str(file)), table[:, 1:], table[:, 0], test_rows=2)
    write_rows(file, table[:1])
    with pytest.raises(ValueError, match=r"own.csv to hold at least two rows, to be split, got 1"):
        data.mnist(file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7," + ",".join(["0"] * 783), r"expected line 3 of .*mnist_test.csv to hold a label and 784 pixels, got 784"),
        ("7," + ",".join(["0"] * 785), r"expected line 3 of .* to hold a label and 784 pixels, got 786 values"),
        ("label," + ",".join(["0"] * 784), r"expected the label in line 3 of .* a whole number 0 to 9, got 'label'"),
        ("10," + ",".join(["0"] * 784), r"expected the label in line 3 of .* to be a whole number 0 to 9, got '10'"),
        ("7,256," + ",".join(["0"] * 783), r"expected pixel 1 in line 3 of .* a whole number 0 to 255, got '256'"),
        ("7,0,-1," + ",".join(["0"] * 782), r"expected pixel 2 in line 3 of .* 0 to 255, got '-1'"),
        ("7,99999999," + ",".join(["0"] * 783), r"expected pixel 1 in line 3 of .* got '99999999'"),
        ("7,0.5," + ",".join(["0"] * 783), r"expected pixel 1 in line 3 of .* got '0.5'"),
        ("7,nan," + ",".join(["0"] * 783), r"expected pixel 1 in line 3 of .* got 'nan'"),
        ("7," + ",".join(["0"] * 783) + ",", r"expected pixel 784 in line 3 of .* got ''"),
        ("7,\xff," + ",".join(["0"] * 783), r"expected pixel 1 in line 3 of .* 0 to 255, got"),
    ],
)
def test_a_faulty_line_of_mnist_is_named(folder, line, message):
    file = folder / "mnist_test.csv"
    good = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([good[0], b"", line.encode("latin-1"), *good[1:]]))
    with pytest.raises(ValueError, match=message):
        data.mnist(folder)


def test_every_line_short_of_a_column_is_refused(folder, table):
    write_rows(folder / "mnist_train_small.csv", table[:, :-1])
    with pytest.raises(ValueError, match=r"line 1 of .*mnist_train_small.csv to hold a label and 784 pixels, got 784"):
        data.mnist(folder)


def test_missing_and_empty_files_of_mnist_are_refused(folder):
    (folder / "mnist_test.csv").write_text("\n\n")
    with pytest.raises(ValueError, match=r"expected .*mnist_test.csv to hold rows of numbers, got none"):
        data.mnist(folder)
    (folder / "mnist_test.csv").unlink()
    with pytest.raises(ValueError, match=r"path to be a CSV file or a folder .* got no file \S*mnist_test.csv$"):
        data.mnist(folder)
    with pytest.raises(ValueError, match=r"got no file .*nowhere"):
        data.mnist(folder / "nowhere")


def test_real_data_come_without_importing_their_library():
    code = "import sys; from gm_utils import data; data.digits(), data.tabular('iris'), data.photo_patches(); "
    code += "print([name for name in ('sklearn', 'matplotlib.pyplot', 'scipy.stats') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_scikit_learn_real_data_say_so(monkeypatch):
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"expected scikit-learn to be installed, with its file datasets/data/digits"):
        data.digits()


def test_data_offers_what_datasets_makes():
    for name in ("digits", "digits_binary", "tabular", "photo_patches", "mnist", "Split"):
        assert getattr(data, name) is getattr(datasets, name)


def test_the_import_stays_light():
    script = "import sys, gm_utils.data, gm_utils.divergences; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert not {"sklearn", "scipy.stats", "scipy.optimize", "matplotlib.pyplot"} & set(loaded)
