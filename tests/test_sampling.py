import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.scipy.stats import norm

from gm_utils import sampling
from gm_utils.sampling import BayesNet, effective_sample_size, importance_estimate

# Russell & Norvig's alarm (after Pearl), children before parents on purpose.
ALARM = {
    "john": (("alarm",), [0.05, 0.90]),
    "mary": (("alarm",), [0.01, 0.70]),
    "alarm": (("burglary", "earthquake"), [[0.001, 0.29], [0.94, 0.95]]),
    "burglary": ((), 0.001),
    "earthquake": ((), 0.002),
}
# The same graph with chances that let a few thousand draws see everything.
LOUD = {
    "john": (("alarm",), [0.15, 0.90]),
    "mary": (("alarm",), [0.05, 0.70]),
    "alarm": (("burglary", "earthquake"), [[0.1, 0.4], [0.8, 0.95]]),
    "burglary": ((), 0.2),
    "earthquake": ((), 0.3),
}
SEEDS = range(4)
N = 40_000


def brute_force(nodes):
    """Return {assignment: probability} by multiplying the conditionals, one assignment at a time."""
    joint = {}
    for values in itertools.product((0, 1), repeat=len(nodes)):
        full = dict(zip(nodes, values, strict=True))
        chance = 1.0
        for node, (parents, table) in nodes.items():
            for parent in parents:
                table = table[full[parent]]
            chance *= table if full[node] else 1.0 - table
        joint[values] = chance
    return joint


def brute_probability(nodes, query, evidence):
    names = list(nodes)

    def mass(known):
        return sum(
            chance
            for values, chance in brute_force(nodes).items()
            if all(values[names.index(node)] == value for node, value in known)
        )

    return mass([*query.items(), *evidence.items()]) / mass(evidence.items())


def assert_within_errors(estimate, truth, std_error, errors=4.0):
    assert abs(float(estimate) - truth) < errors * float(std_error), (float(estimate), truth, float(std_error))


def mean_and_error(column):
    column = np.asarray(column, dtype=np.float64)
    return column.mean(), column.std(ddof=1) / math.sqrt(column.size)


class TestExactProbability:
    def test_alarm_by_hand(self):
        # Given a burglary the alarm rings with 0.002 * 0.95 + 0.998 * 0.94, otherwise with 0.002 * 0.29 + 0.998 *
        # 0.001; both call with 0.9 * 0.7 if it rings, with 0.05 * 0.01 if not.
        rings, silent = 0.9 * 0.7, 0.05 * 0.01
        burglary = 0.001 * (0.94002 * rings + 0.05998 * silent)
        peace = 0.999 * (0.001578 * rings + 0.998422 * silent)
        net = BayesNet(ALARM)
        calls = {"john": 1, "mary": 1}
        np.testing.assert_allclose(net.probability({"burglary": 1}, calls), burglary / (burglary + peace), rtol=1e-12)
        np.testing.assert_allclose(net.probability(calls), burglary + peace, rtol=1e-12)

    @pytest.mark.parametrize(
        ("query", "evidence"),
        [
            ({"burglary": 1}, {}),
            ({"mary": 0}, {"earthquake": 1}),
            ({"burglary": 1, "earthquake": 0}, {"john": 1, "mary": 0}),
            ({"john": 1}, {"alarm": 0}),
            ({"burglary": 1}, {"alarm": 1, "earthquake": 1}),
            ({"burglary": 1, "earthquake": 1, "alarm": 1, "john": 1, "mary": 1}, {}),
        ],
    )
    def test_against_the_joint_table(self, query, evidence):
        np.testing.assert_allclose(
            BayesNet(ALARM).probability(query, evidence), brute_probability(ALARM, query, evidence), rtol=1e-12
        )

    def test_query_that_overlaps_the_evidence(self):
        net = BayesNet(ALARM)
        assert net.probability({"john": 1}, {"john": 1}) == 1.0
        assert net.probability({"john": 1}, {"john": 0}) == 0.0
        assert net.probability({"john": 0, "burglary": 1}, {"john": 1}) == 0.0
        alone = net.probability({"burglary": 1}, {"john": 1})
        np.testing.assert_allclose(net.probability({"john": 1, "burglary": 1}, {"john": 1}), alone, rtol=1e-12)

    def test_empty_query_is_certain(self):
        assert BayesNet(ALARM).probability({}) == 1.0
        np.testing.assert_allclose(BayesNet(ALARM).probability({}, {"john": 1}), 1.0, rtol=1e-12)

    def test_long_chain_against_matrix_powers(self):
        stay, start, steps = np.array([[0.7, 0.3], [0.1, 0.9]]), 0.25, 45
        chain = {0: ((), start)} | {t: ((t - 1,), stay[:, 1]) for t in range(1, steps)}
        after = np.array([1 - start, start]) @ np.linalg.matrix_power(stay, steps - 1)
        np.testing.assert_allclose(BayesNet(chain).probability({steps - 1: 1}), after[1], rtol=1e-12)

    def test_impossible_evidence_is_refused(self):
        net = BayesNet({"a": ((), 0.0), "b": (("a",), [0.5, 0.5])})
        with pytest.raises(ValueError, match=r"expected evidence of probability above zero, got \{'a': 1\}"):
            net.probability({"b": 1}, {"a": 1})

    def test_too_many_nodes_to_sum_are_refused(self):
        chain = {0: ((), 0.5)} | {t: ((t - 1,), [0.2, 0.8]) for t in range(1, 60)}
        with pytest.raises(ValueError, match="expected a sum over at most 52 nodes, got 59"):
            BayesNet(chain).probability({59: 1})
        # Only the ancestors count, whatever the size of the network.
        np.testing.assert_allclose(BayesNet(chain).probability({30: 1}), 0.5, rtol=1e-12)


@st.composite
def networks(draw):
    """Draw a network of up to five nodes, parents first."""
    nodes = {}
    for name in "abcde"[: draw(st.integers(1, 5))]:
        parents = tuple(parent for parent in nodes if draw(st.booleans()))
        chances = [draw(st.floats(0.0, 1.0, allow_subnormal=False)) for _ in range(2 ** len(parents))]
        nodes[name] = (parents, np.reshape(chances, (2,) * len(parents)).tolist())
    return nodes


@settings(max_examples=25, deadline=None, derandomize=True)
@given(networks(), st.randoms(use_true_random=False))
def test_random_networks(nodes, random):
    names = list(nodes)
    shuffled = random.sample(names, len(names))
    net, other = BayesNet(nodes), BayesNet({name: nodes[name] for name in shuffled})
    for order in (net.order, other.order):
        assert sorted(order) == names
        assert all(order.index(parent) < order.index(node) for node in names for parent in nodes[node][0])
    total = 0.0
    for values, chance in brute_force(nodes).items():
        full = dict(zip(names, values, strict=True))
        np.testing.assert_allclose(net.probability(full), chance, rtol=1e-9, atol=1e-300)
        np.testing.assert_allclose(other.probability(full), chance, rtol=1e-9, atol=1e-300)
        total += net.probability(full)
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)
    np.testing.assert_allclose(
        net.probability({names[-1]: 1}), brute_probability(nodes, {names[-1]: 1}, {}), atol=1e-12
    )


class TestSamplers:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_forward_marginals_and_a_joint_event(self, seed):
        net = BayesNet(LOUD)
        draws = net.forward_sample(jax.random.key(seed), N)
        assert tuple(draws) == net.order
        for node, column in draws.items():
            assert column.shape == (N,)
            assert column.dtype == jnp.int32
            assert_within_errors(*(mean_and_error(column)[0], net.probability({node: 1}), mean_and_error(column)[1]))
        mean, error = mean_and_error((draws["john"] == 1) & (draws["mary"] == 0) & (draws["burglary"] == 1))
        assert_within_errors(mean, net.probability({"john": 1, "mary": 0, "burglary": 1}), error)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_rejection_accepts_p_of_evidence_and_keeps_the_posterior(self, seed):
        net, evidence = BayesNet(LOUD), {"john": 1, "mary": 0}
        draws = net.rejection_sample(jax.random.key(seed), N, evidence=evidence)
        accepted = draws["john"].shape[0]
        chance = net.probability(evidence)
        assert_within_errors(accepted / N, chance, math.sqrt(chance * (1 - chance) / N))
        assert (draws["john"] == 1).all()
        assert (draws["mary"] == 0).all()
        for node in ("burglary", "earthquake", "alarm"):
            assert draws[node].shape == (accepted,)
            mean, error = mean_and_error(draws[node])
            assert_within_errors(mean, net.probability({node: 1}, evidence), error)

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize(("nodes", "n"), [(LOUD, N), (ALARM, 400_000)])
    def test_likelihood_weighting(self, seed, nodes, n):
        net, evidence = BayesNet(nodes), {"john": 1, "mary": 1}
        draws, log_weights = net.likelihood_weighting(jax.random.key(seed), n, evidence=evidence)
        assert log_weights.shape == (n,)
        assert log_weights.dtype == jnp.float32
        assert (draws["john"] == 1).all()
        for node in ("burglary", "earthquake", "alarm"):
            estimate = importance_estimate(draws[node], log_weights)
            assert_within_errors(estimate.value, net.probability({node: 1}, evidence), estimate.std_error)
        chance = importance_estimate(jnp.ones(n), log_weights, self_normalised=False)
        assert_within_errors(chance.value, net.probability(evidence), chance.std_error)
        np.testing.assert_allclose(chance.log_normaliser, math.log(chance.value), rtol=1e-5)

    def test_evidence_inside_the_network_is_not_seen_by_its_parents(self):
        # Likelihood weighting draws the parents from their prior; only the weights know the evidence.
        net = BayesNet(LOUD)
        draws, _ = net.likelihood_weighting(jax.random.key(5), N, evidence={"alarm": 1})
        mean, error = mean_and_error(draws["burglary"])
        assert_within_errors(mean, 0.2, error)
        mean, error = mean_and_error(draws["john"])
        assert_within_errors(mean, 0.90, error)

    def test_evidence_on_roots_costs_nothing(self):
        net, evidence = BayesNet(ALARM), {"burglary": 1, "earthquake": 0}
        draws, log_weights = net.likelihood_weighting(jax.random.key(0), 1000, evidence=evidence)
        np.testing.assert_allclose(log_weights, math.log(net.probability(evidence)), rtol=1e-6)
        np.testing.assert_allclose(effective_sample_size(log_weights), 1000, rtol=1e-6)
        mean, error = mean_and_error(draws["alarm"])
        assert_within_errors(mean, 0.94, error)

    def test_evidence_that_cannot_happen(self):
        net = BayesNet({"a": ((), 0.0), "b": (("a",), [0.5, 0.5])})
        assert net.rejection_sample(jax.random.key(0), 100, evidence={"a": 1})["b"].shape == (0,)
        _, log_weights = net.likelihood_weighting(jax.random.key(0), 100, evidence={"a": 1})
        assert (log_weights == -jnp.inf).all()

    def test_probabilities_zero_and_one_are_exact(self):
        draws = BayesNet({"never": ((), 0.0), "always": ((), 1.0)}).forward_sample(jax.random.key(0), 200_000)
        assert int(draws["never"].sum()) == 0
        assert int(draws["always"].sum()) == 200_000

    def test_same_key_same_draws_and_other_key_other_draws(self):
        net = BayesNet(LOUD)
        first, again, other = (net.forward_sample(jax.random.key(seed), 100)["john"] for seed in (0, 0, 1))
        assert (first == again).all()
        assert (first != other).any()

    def test_nodes_are_drawn_independently_of_each_other(self):
        draws = BayesNet({"a": ((), 0.5), "b": ((), 0.5)}).forward_sample(jax.random.key(3), N)
        mean, error = mean_and_error(draws["a"] == draws["b"])
        assert_within_errors(mean, 0.5, error)

    def test_under_vmap(self):
        net, keys = BayesNet(LOUD), jax.random.split(jax.random.key(0), 3)
        sample = functools.partial(net.likelihood_weighting, n=1024, evidence={"john": 1})
        draws, log_weights = jax.vmap(lambda key: sample(key))(keys)
        for row, key in enumerate(keys):
            alone, alone_weights = sample(key)
            np.testing.assert_array_equal(draws["burglary"][row], alone["burglary"])
            np.testing.assert_allclose(log_weights[row], alone_weights, rtol=1e-6)

    def test_rebuilding_the_network_compiles_nothing(self):
        def move(burglary, n, evidence):
            net = BayesNet(LOUD | {"burglary": ((), burglary)})
            draws, log_weights = net.likelihood_weighting(jax.random.key(0), n, evidence=evidence)
            importance_estimate(draws["burglary"], log_weights)
            net.log_prob(draws)
            net.rejection_sample(jax.random.key(0), n, evidence=evidence)

        compiled = (sampling._draw, sampling._weigh, sampling._log_joint)
        move(0.2, 3000, {"john": 1})
        before = [function._cache_size() for function in compiled]
        move(0.3, 2500, {"mary": 0, "john": 1})
        assert [function._cache_size() for function in compiled] == before


class TestLogProb:
    def test_every_assignment(self):
        names = list(ALARM)
        joint = brute_force(ALARM)
        table = np.array(list(joint))
        log_prob = BayesNet(ALARM).log_prob({name: table[:, index] for index, name in enumerate(names)})
        assert log_prob.shape == (32,)
        np.testing.assert_allclose(log_prob, np.log(list(joint.values())), rtol=1e-6)

    def test_near_certain_and_impossible_values(self):
        net = BayesNet({"a": ((), 1 - 1e-9), "b": ((), 1.0)})
        log_prob = net.log_prob({"a": [0, 1, 1], "b": [1, 1, 0]})
        np.testing.assert_allclose(log_prob, [math.log(1e-9), -1e-9, -math.inf], rtol=1e-6)

    def test_samples_have_the_entropy_of_the_network(self):
        net = BayesNet(LOUD)
        entropy = -sum(chance * math.log(chance) for chance in brute_force(LOUD).values())
        mean, error = mean_and_error(net.log_prob(net.forward_sample(jax.random.key(1), N)))
        assert_within_errors(-mean, entropy, error)

    def test_under_jit(self):
        net = BayesNet(LOUD)
        draws = net.forward_sample(jax.random.key(1), 100)
        np.testing.assert_allclose(jax.jit(net.log_prob)(draws), net.log_prob(draws), rtol=1e-6)


class TestNetworkRefusals:
    @pytest.mark.parametrize(
        ("nodes", "message"),
        [
            ({}, "expected nodes as a dictionary"),
            ([("a", ((), 0.5))], "expected nodes as a dictionary"),
            ({"a": 0.5}, r"expected node 'a' as a pair \(parents, table\), got 0.5"),
            ({"a": ((), 0.5, 1)}, "expected node 'a' as a pair"),
            (
                {"b": ((), 0.5), "a": ("b", [0.5, 0.5])},
                "expected the parents of 'a' as a tuple or list of nodes, got 'b'",
            ),
            ({"a": (("c",), [0.5, 0.5])}, r"expected the parents of 'a' among the nodes \['a'\], got 'c'"),
            ({"a": (([],), [0.5, 0.5])}, r"expected the parents of 'a' among the nodes"),
            ({"b": ((), 0.5), "a": (("b", "b"), [[0.5] * 2] * 2)}, "expected the parents of 'a' to be distinct"),
            ({"a": ((), [0.5, 0.5])}, r"expected the table of 'a' of shape \(\), got \(2,\)"),
            ({"b": ((), 0.5), "a": (("b",), 0.5)}, r"expected the table of 'a' of shape \(2,\), got \(\)"),
            ({"b": ((), 0.5), "a": (("b",), [0.5, [0.5]])}, "expected the table of 'a' as nested lists of numbers"),
            ({"a": ((), "often")}, "expected the table of 'a' as nested lists of numbers"),
            ({"a": ((), 1.5)}, "expected the table of 'a' of probabilities between 0 and 1, got 1.5"),
            ({"a": ((), -0.1)}, "expected the table of 'a' of probabilities"),
            ({"a": ((), math.nan)}, "expected the table of 'a' of probabilities"),
            ({"a": (("a",), [0.5, 0.5])}, "expected a graph without cycles, got the cycle 'a' -> 'a'"),
        ],
    )
    def test_malformed_networks(self, nodes, message):
        with pytest.raises(ValueError, match=message):
            BayesNet(nodes)

    def test_cycle_is_named_along_its_arrows(self):
        half = [0.5, 0.5]
        nodes = {"root": ((), 0.5), "a": (("c",), half), "b": (("a",), half), "c": (("b",), half)}
        with pytest.raises(ValueError, match="expected a graph without cycles") as refusal:
            BayesNet(nodes)
        cycle = str(refusal.value).split("the cycle ")[1].replace("'", "").split(" -> ")
        assert cycle[0] == cycle[-1]
        assert sorted(cycle[1:]) == ["a", "b", "c"]
        assert all(parent in nodes[child][0] for parent, child in itertools.pairwise(cycle))

    @pytest.mark.parametrize(
        "values", [{"nobody": 1}, {"john": 2}, {"john": 0.5}, {"john": [1]}, {"john": None}, "john"]
    )
    def test_bad_evidence_and_queries(self, values):
        net, key = BayesNet(ALARM), jax.random.key(0)
        expected = "about the nodes|to be 0 or 1|as a dictionary"
        for call in (
            lambda: net.rejection_sample(key, 10, evidence=values),
            lambda: net.likelihood_weighting(key, 10, evidence=values),
            lambda: net.probability({"mary": 1}, values),
            lambda: net.probability(values),
        ):
            with pytest.raises(ValueError, match=f"expected .*({expected})"):
                call()

    @pytest.mark.parametrize("n", [0, -1, 2.5, True])
    def test_bad_number_of_draws(self, n):
        net, key = BayesNet(ALARM), jax.random.key(0)
        for call in (
            lambda: net.forward_sample(key, n),
            lambda: net.rejection_sample(key, n, evidence={}),
            lambda: net.likelihood_weighting(key, n, evidence={}),
        ):
            with pytest.raises(ValueError, match="expected n to be a whole number above zero"):
                call()

    def test_bad_assignments(self):
        net = BayesNet({"a": ((), 0.5), "b": ((), 0.5)})
        for assignment, message in [
            ({"a": [0]}, r"expected assignment of the nodes \['a', 'b'\], got \['a'\]"),
            ({"a": [0], "b": [0], "c": [0]}, "expected assignment of the nodes"),
            ({"a": [0], "b": [0, 1]}, r"expected assignment of arrays of one shape \(n,\)"),
            ({"a": 0, "b": 1}, r"expected assignment of arrays of one shape \(n,\)"),
            ({"a": [0, 2], "b": [0, 1]}, r"expected the values of 'a' to be 0 or 1, got \[0, 2\]"),
        ]:
            with pytest.raises(ValueError, match=message):
                net.log_prob(assignment)


def direct_ess(log_weights):
    weights = np.exp(np.float64(log_weights) - np.max(log_weights))
    return weights.sum() ** 2 / (weights**2).sum()


class TestEffectiveSampleSize:
    @pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
    @pytest.mark.parametrize("n", [7, 1000, 3000])
    def test_against_the_definition(self, scale, n):
        log_weights = scale * jax.random.normal(jax.random.key(n), (n,))
        np.testing.assert_allclose(effective_sample_size(log_weights), direct_ess(log_weights), rtol=1e-5)

    def test_weights_over_a_thousand_nats(self):
        log_weights = np.linspace(-1000, 0, 2001, dtype=np.float32)
        # A geometric series with ratio r: (1 / (1 - r))**2 / (1 / (1 - r**2)) = (1 + r) / (1 - r).
        ratio = math.exp(-0.5)
        np.testing.assert_allclose(effective_sample_size(log_weights), (1 + ratio) / (1 - ratio), rtol=1e-5)

    @pytest.mark.parametrize("level", [0.0, -1000.0, 1000.0])
    def test_limits(self, level):
        np.testing.assert_allclose(effective_sample_size(jnp.full(1500, level)), 1500, rtol=1e-6)
        np.testing.assert_allclose(effective_sample_size([level, level - 200, level - 300]), 1.0, rtol=1e-6)
        np.testing.assert_allclose(effective_sample_size([level, level, -math.inf]), 2.0, rtol=1e-6)
        np.testing.assert_allclose(effective_sample_size([level]), 1.0, rtol=1e-6)

    @pytest.mark.parametrize("variance", [1.5, 2.0])
    @pytest.mark.parametrize("d", [1, 3, 6])
    def test_gaussian_limit(self, variance, d):
        # For w = p / q with p = N(0, 1), q = N(0, s^2): E_q[w] = 1 and E_q[w^2] = int p^2 / q = s^2 / sqrt(2 s^2 - 1);
        # dimensions multiply, and ESS / n tends to E[w]^2 / E[w^2].
        limit = (math.sqrt(2 * variance - 1) / variance) ** d
        scale = math.sqrt(variance)

        def share(key):
            x = scale * jax.random.normal(key, (10_000, d))
            log_weights = (norm.logpdf(x) - norm.logpdf(x, 0.0, scale)).sum(-1)
            return effective_sample_size(log_weights) / 10_000

        shares = jax.vmap(share)(jax.random.split(jax.random.key(d), 30))
        assert_within_errors(shares.mean(), limit, shares.std(ddof=1) / math.sqrt(30))


def gaussian_draws(key, n):
    """Draw from N(0.5, 1.5^2), weight for N(0, 1); return (x, x**2), of means 0 and 1 there, and the log weights."""
    x = 0.5 + 1.5 * jax.random.normal(key, (n,))
    return jnp.stack([x, x**2], axis=-1), norm.logpdf(x) - norm.logpdf(x, 0.5, 1.5)


class TestImportanceEstimate:
    @pytest.mark.parametrize("self_normalised", [True, False])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_gaussian_moments(self, seed, self_normalised):
        values, log_weights = gaussian_draws(jax.random.key(seed), 20_000)
        estimate = importance_estimate(values, log_weights, self_normalised=self_normalised)
        assert estimate.value.shape == estimate.std_error.shape == (2,)
        assert estimate.value.dtype == estimate.std_error.dtype == estimate.ess.dtype == jnp.float32
        for value, truth, error in zip(estimate.value, (0.0, 1.0), estimate.std_error, strict=True):
            assert_within_errors(value, truth, error)
        normaliser = importance_estimate(jnp.ones(20_000), log_weights, self_normalised=False)
        assert_within_errors(normaliser.value, 1.0, normaliser.std_error)
        np.testing.assert_allclose(estimate.log_normaliser, np.log(normaliser.value), atol=1e-6)
        np.testing.assert_allclose(estimate.ess, direct_ess(log_weights), rtol=1e-5)

    @pytest.mark.parametrize("self_normalised", [True, False])
    def test_standard_error_is_the_spread_over_replications(self, self_normalised):
        replications = 200

        def replicate(key):
            return importance_estimate(*gaussian_draws(key, 1000), self_normalised=self_normalised)

        estimates = jax.vmap(replicate)(jax.random.split(jax.random.key(0), replications))
        spread = np.asarray(estimates.value).std(axis=0, ddof=1)
        claimed = np.asarray(estimates.std_error).mean(axis=0)
        # A standard deviation from R values has a relative error of about 1 / sqrt(2 (R - 1)).
        assert (np.abs(spread / claimed - 1) < 4 / math.sqrt(2 * (replications - 1))).all(), spread / claimed

    @pytest.mark.parametrize("scale", [1.0, 200.0])
    def test_self_normalised_is_the_weighted_average(self, scale):
        values = np.asarray(jax.random.normal(jax.random.key(0), (1500,)), np.float64)
        log_weights = np.asarray(scale * jax.random.normal(jax.random.key(1), (1500,)), np.float64)
        shares = np.exp(log_weights - log_weights.max())
        shares /= shares.sum()
        average = np.average(values, weights=shares)
        estimate = importance_estimate(values, log_weights)
        assert estimate.value.shape == ()
        np.testing.assert_allclose(estimate.value, average, rtol=1e-4)
        np.testing.assert_allclose(
            estimate.std_error, math.sqrt(np.sum(shares**2 * (values - average) ** 2)), rtol=1e-4, atol=1e-7
        )
        normaliser = log_weights.max() + math.log(np.mean(np.exp(log_weights - log_weights.max())))
        np.testing.assert_allclose(estimate.log_normaliser, normaliser, rtol=1e-6)

    def test_unbiased_is_the_plain_mean(self):
        values = np.asarray(jax.random.normal(jax.random.key(0), (1500,)), np.float64)
        log_weights = np.asarray(jax.random.normal(jax.random.key(1), (1500,)), np.float64)
        mean, error = mean_and_error(np.exp(log_weights) * values)
        estimate = importance_estimate(values, log_weights, self_normalised=False)
        np.testing.assert_allclose([estimate.value, estimate.std_error], [mean, error], rtol=1e-4)

    def test_constant_shift_of_the_log_weights(self):
        values = jax.random.normal(jax.random.key(0), (1000,))
        # Multiples of 1/64 up to 10, shifted by 1024: exact in float32.
        log_weights = jnp.round(64 * jax.random.normal(jax.random.key(1), (1000,))) / 64
        plain, shifted = importance_estimate(values, log_weights), importance_estimate(values, log_weights + 1024)
        for name in ("value", "std_error", "ess"):
            assert float(getattr(plain, name)) == float(getattr(shifted, name))
        np.testing.assert_allclose(shifted.log_normaliser, plain.log_normaliser + 1024, rtol=1e-6)
        plain = importance_estimate(values, log_weights, self_normalised=False)
        shifted = importance_estimate(values, log_weights - 2, self_normalised=False)
        np.testing.assert_allclose(shifted.value, plain.value * math.exp(-2), rtol=1e-5)
        np.testing.assert_allclose(shifted.std_error, plain.std_error * math.exp(-2), rtol=1e-5)
        assert float(shifted.ess) == float(plain.ess)

    @pytest.mark.parametrize("self_normalised", [True, False])
    def test_draws_of_weight_zero(self, self_normalised):
        estimate = functools.partial(importance_estimate, self_normalised=self_normalised)
        gone = estimate([1.0, 5.0, math.nan, math.inf], [0.5, 0.1, -math.inf, -math.inf])
        zero = estimate([1.0, 5.0, 0.0, 0.0], [0.5, 0.1, -math.inf, -math.inf])
        np.testing.assert_array_equal(gone, zero)
        w = np.exp([0.5, 0.1])
        np.testing.assert_allclose(gone.log_normaliser, math.log(w.sum() / 4), rtol=1e-6)
        truth = (w @ [1.0, 5.0]) / (w.sum() if self_normalised else 4)
        np.testing.assert_allclose(gone.value, truth, rtol=1e-6)

    def test_whole_numbers_and_booleans_as_values(self):
        log_weights = [0.0, math.log(3.0)]
        np.testing.assert_allclose(importance_estimate(jnp.array([0, 1]), log_weights).value, 0.75, rtol=1e-6)
        np.testing.assert_allclose(importance_estimate(np.array([False, True]), log_weights).value, 0.75, rtol=1e-6)

    @pytest.mark.parametrize("self_normalised", [True, False])
    def test_traced_and_concrete_calls_agree(self, self_normalised):
        values, log_weights = gaussian_draws(jax.random.key(0), 700)
        estimate = functools.partial(importance_estimate, self_normalised=self_normalised)
        concrete = estimate(values, log_weights)
        for traced in (jax.jit(estimate)(values, log_weights), jax.jit(lambda w: estimate(values, w))(log_weights)):
            for one, other in zip(concrete, traced, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4)


class TestWeightRefusals:
    @pytest.mark.parametrize(
        ("log_weights", "message"),
        [
            ([[0.0, 1.0]], r"expected log_weights of shape \(n,\), got \(1, 2\)"),
            ([], r"expected log_weights of shape \(n,\), got \(0,\)"),
            ([0.0, math.nan], r"expected log_weights without NaN and \+inf, got 1 of 2"),
            ([0.0, math.inf], r"expected log_weights without NaN and \+inf, got 1 of 2"),
            ([-math.inf, -math.inf], "expected log_weights with one above -inf or more, got 2 draws"),
        ],
    )
    def test_log_weights(self, log_weights, message):
        with pytest.raises(ValueError, match=message):
            effective_sample_size(log_weights)
        with pytest.raises(ValueError, match=message):
            importance_estimate([1.0, 2.0], log_weights)

    @pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0], [[1.0, 2.0, 3.0]], 1.0, np.ones((2, 1, 1))])
    def test_shape_of_values(self, values):
        with pytest.raises(
            ValueError, match=r"expected values of shape \(2,\) or \(2, k\), as there are 2 log_weights"
        ):
            importance_estimate(values, [0.0, 0.0])

    def test_values_that_are_not_finite(self):
        with pytest.raises(ValueError, match="expected values to be finite wherever the weight is above zero, got nan"):
            importance_estimate([1.0, math.nan], [0.0, 0.0])

    def test_single_draw(self):
        with pytest.raises(ValueError, match="expected log_weights of two draws or more, for a standard error, got 1"):
            importance_estimate([1.0], [0.0])

    @pytest.mark.parametrize("level", [1000.0, -1000.0])
    def test_unbiased_value_out_of_range(self, level):
        with pytest.raises(ValueError, match=r"expected log_weights with a largest within .* got -?1000"):
            importance_estimate([1.0, 2.0], [level, level - 1], self_normalised=False)
        assert math.isfinite(importance_estimate([1.0, 2.0], [level, level - 1]).value)
