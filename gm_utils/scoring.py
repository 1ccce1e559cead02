"""How good are generated digits: a distance in a classifier's features, and which classes the samples cover.

One number is easily fooled: a model that draws perfect ones and nothing else has confident samples, all near real
digits. So use the two together, and beside them the same numbers for real digits against other real digits, the floor.

>>> frechet_distance([[0.0], [2.0]], [[3.0], [5.0]])  # equal covariances, means 3 apart
9.0
>>> class_coverage([7] * 50, list(range(10)) * 5).covered
1
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gm_utils.networks import mlp
from gm_utils.training import fit_many
from gm_utils.validation import array_of_shape, finite, positive_int, refuse

CLASSES = 10
_ADAM = optax.adamw(3e-3, weight_decay=1e-2)  # one object, so that a second call does not compile again


class Coverage(NamedTuple):
    """How samples spread over the classes.

    Attributes:
        shares: the share of the samples in each class, (10,); they sum to 1.
        covered: how many classes have enough of them; see ``class_coverage``.
        total_variation: half the sum of |share - real share|: 0 for equal shares, 1 where no class is in common.
    """

    shares: np.ndarray
    covered: int
    total_variation: float


def fit_classifiers(
    key: jax.Array, sets: Sequence[tuple[Any, Any]], *, steps: int = 400, batch_size: int = 128
) -> list[nnx.Sequential]:
    """Train one classifier for each labelled set, all in one vectorised run, by cross-entropy.

    A classifier returns the logits of the ten classes. It has two hidden layers, of 128 and of 32 units, and starts
    from weights of its own. Trained on 1,500 of the 8x8 digits, one gets about 98 % of unseen grey digits right, and
    about 93 % of those in black and white.

    Args:
        key: a JAX random key.
        sets: pairs (images, labels): images (n, inputs) on a scale from 0 to 1, labels (n,) whole numbers 0 to 9.
            All pairs share n and inputs. A single pair in a list trains a single classifier.
        steps: number of updates.
        batch_size: rows of a minibatch, at most n.

    Raises:
        ValueError: for an empty list, shapes that do not fit, pixels outside [0, 1] and labels outside 0 to 9.
    """
    if not sets:
        raise refuse("sets", "to be one or more pairs (images, labels)", "none")
    images, labels = zip(*(_labelled(*pair) for pair in sets), strict=True)
    shapes = [part.shape for part in images]
    if len(set(shapes)) > 1:
        raise refuse("sets", "to share one shape of images", shapes)
    seeds = jax.random.split(key, len(sets) + 1)
    models = [mlp([shapes[0][1], 128, 32, CLASSES], rngs=nnx.Rngs(seed)) for seed in seeds[1:]]
    fit_many(
        models, _cross_entropy, jnp.arange(shapes[0][0]), key=seeds[0], steps=steps, batch_size=batch_size,
        optimizer=_ADAM, settings=(jnp.stack(images), jnp.stack(labels)), progress=False,
    )  # fmt: skip
    return models


def embed(classifier: nnx.Sequential, images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the features, (n, features), and the predicted classes, (n,), of images of shape (n, inputs).

    The features are the activations of the last hidden layer.

    Raises:
        ValueError: for another shape, and for pixels outside [0, 1].
    """
    first: Any = classifier.layers[0]
    return jax.device_get(_embed(classifier, _pixels(images, first.in_features)))


def frechet_distance(features_a: Any, features_b: Any) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with means m and covariances C of the two samples.

    The squared Wasserstein-2 distance of two Gaussians with these moments (Dowson and Landau, 1982), as Heusel et al.
    (2017, arXiv:1706.08500, equation 6) use it. In squared units of the features; computed in float64. It is biased
    upward, the more the smaller the samples are: compare values from equal sizes only, and with ``real_floor``.

    Args:
        features_a: shape (n, features), with n of at least 2.
        features_b: shape (m, features).

    Raises:
        ValueError: for other shapes, a sample of one, and values that are not finite.
    """
    a, b = _sample("features_a", features_a), _sample("features_b", features_b)
    if a.shape[1] != b.shape[1]:
        raise refuse("features_b", f"to have {a.shape[1]} features, as features_a", b.shape[1])
    shift = a.mean(axis=0) - b.mean(axis=0)
    root_a, root_b = (np.linalg.qr(part - part.mean(axis=0), "r") / np.sqrt(len(part) - 1) for part in (a, b))
    # With C = R^T R, the eigenvalues of C_a C_b are the squares of the singular values of R_a R_b^T.
    shared = np.linalg.norm(root_a @ root_b.T, "nuc")
    return max(0.0, float(shift @ shift + (root_a**2).sum() + (root_b**2).sum() - 2 * shared))


def real_floor(key: jax.Array, features: Any, *, size: int, repeats: int = 20) -> np.ndarray:
    """Return ``frechet_distance`` of real data to other real data, (repeats,): no model should be expected below it.

    Each time ``size`` rows are drawn at random without replacement and compared with all other rows. Score a model by
    as many samples, against as many real rows as are left here.

    Args:
        key: a JAX random key.
        features: of real data that the classifier was not trained on, (n, features).
        size: rows of the smaller part, from 2 to n - 2.
        repeats: number of random splits.

    Raises:
        ValueError: for another shape, values that are not finite, and another size.
    """
    features = _sample("features", features)
    if not 2 <= positive_int("size", size) <= len(features) - 2:
        raise refuse("size", f"to be from 2 to {len(features) - 2}", size)
    distances = []
    for one in jax.random.split(key, positive_int("repeats", repeats)):
        order = np.random.default_rng(np.asarray(jax.random.key_data(one)).tolist()).permutation(len(features))
        distances.append(frechet_distance(features[order[:size]], features[order[size:]]))
    return np.array(distances)


def class_coverage(predicted: Any, real: Any, *, least: float = 0.25) -> Coverage:
    """Return how samples spread over the ten classes, compared with real data.

    Args:
        predicted: the classes of the samples as a classifier sees them, (n,), whole numbers 0 to 9.
        real: the classes of real data, (m,), seen by the same classifier or given by labels.
        least: a class counts as covered when its share is at least this part of its real share, and not zero.

    Raises:
        ValueError: for other shapes, classes outside 0 to 9, and a ``least`` that is not in (0, 1].
    """
    if not 0 < least <= 1:
        raise refuse("least", "to be above zero and at most 1", least)
    shares, real_shares = (
        np.bincount(_classes(name, part), minlength=CLASSES) / len(part)
        for name, part in (("predicted", predicted), ("real", real))
    )
    covered = (shares > 0) & (shares >= least * real_shares)
    return Coverage(shares, int(covered.sum()), float(0.5 * np.abs(shares - real_shares).sum()))


def _cross_entropy(model: nnx.Sequential, rows: jax.Array, own: tuple[jax.Array, jax.Array]) -> jax.Array:
    images, labels = own
    return optax.softmax_cross_entropy_with_integer_labels(model(images[rows]), labels[rows]).mean()


@nnx.jit
def _embed(classifier: nnx.Sequential, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    features = nnx.Sequential(*classifier.layers[:-1])(images)
    return features, classifier.layers[-1](features).argmax(axis=1)


def _pixels(images: Any, inputs: int | str = "inputs") -> jax.Array:
    images = array_of_shape("images", jnp.asarray(images, jnp.float32), ("n", inputs))
    values = np.asarray(images)
    if not (values.min() >= 0 and values.max() <= 1):
        raise refuse("images", "to lie in [0, 1]", f"values from {values.min()} to {values.max()}")
    return images


def _labelled(images: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
    images = _pixels(images)
    return images, jnp.asarray(_classes("labels", labels, len(images)), jnp.int32)


def _classes(name: str, values: Any, n: int | str = "n") -> np.ndarray:
    values = np.asarray(array_of_shape(name, values, (n,)))
    if not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() >= CLASSES:
        got = f"{values.dtype} from {values.min()} to {values.max()}"
        raise refuse(name, f"to be whole numbers 0 to {CLASSES - 1}", got)
    return values


def _sample(name: str, features: Any) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise refuse(name, "of shape (n, features) with n of at least 2", features.shape)
    finite(name, features)
    return features
