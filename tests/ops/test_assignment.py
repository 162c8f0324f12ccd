"""Assignments against the vectors of the specification, against plain NumPy in float64, and by their invariants."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.ops import assignment
from gssl_jax.training.mesh import make_mesh, on_data
from tests import reference

# L[i, j] = sin(1 + i K + j) with B = 4 rows and K = 3 prototypes; every vector below was computed apart from this code.
L = np.sin(1.0 + np.arange(12.0)).reshape(4, 3).astype(np.float32)
EPS_05 = [[0.41933, 0.469829, 0.110841], [0.225233, 0.147076, 0.627692], [0.280969, 0.534347, 0.184685],
          [0.402936, 0.158364, 0.4387]]  # fmt: skip
EPS_005 = [[0.826064, 0.173469, 0.000466], [0, 0, 1], [0.020923, 0.872247, 0.10683], [0.001258, 0, 0.998742]]
MSN = [[0.434988, 0.565012, 0], [0, 0, 1], [0.00002, 0.99998, 0], [0.789093, 0, 0.210907]]

sinkhorn = jax.jit(assignment.sinkhorn, static_argnums=1)
health = jax.jit(assignment.assignment_health)


def scores(rows, prototypes, seed=0, scale=5.0):
    return scale * np.random.default_rng(seed).standard_normal((rows, prototypes)).astype(np.float32)


@pytest.mark.parametrize(("eps", "expected", "marginals"), [
    (0.5, EPS_05, [1.328467, 1.309615, 1.361917]), (0.05, EPS_005, [0.848246, 1.045716, 2.106038]),
])  # fmt: skip
def test_sinkhorn_reference_vectors(eps, expected, marginals):
    q = sinkhorn(jnp.asarray(L / eps), 3)
    np.testing.assert_allclose(q, expected, atol=2e-6)
    np.testing.assert_allclose(q.sum(axis=0), marginals, atol=3e-6)
    np.testing.assert_allclose(q.sum(axis=1), 1.0, atol=1e-6)


def test_sinkhorn_on_sharpened_probabilities_is_the_form_of_msn():
    sharpened = assignment.sharpen(jax.nn.softmax(jnp.asarray(L) / 0.1, axis=-1), 0.25)
    np.testing.assert_allclose(sinkhorn(jnp.log(sharpened), 3), MSN, atol=2e-6)


def test_sinkhorn_marginals_converge():
    np.testing.assert_allclose(sinkhorn(jnp.asarray(L / 0.5), 200).sum(axis=0), 4 / 3, atol=5e-5)
    many = sinkhorn(jnp.asarray(scores(32, 8)), 200)
    np.testing.assert_allclose(many.sum(axis=0), 4.0, atol=1e-3)


def test_sinkhorn_on_shards_of_the_batch_would_be_another_thing():
    """What a sum over the rows of one device gives; the real one is not it."""
    halves = np.concatenate([sinkhorn(jnp.asarray(half / 0.5), 3) for half in (L[:2], L[2:])])
    np.testing.assert_allclose(halves[0], [0.416553, 0.482583, 0.100864], atol=2e-6)
    np.testing.assert_allclose(halves.sum(axis=0), [1.321471, 1.302903, 1.375625], atol=3e-6)
    assert np.abs(halves - np.asarray(EPS_05)).max() > 2e-3


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_equals_the_matrix_form(iterations):
    x = scores(32, 5)
    np.testing.assert_allclose(sinkhorn(jnp.asarray(x), iterations), reference.sinkhorn(x, iterations), atol=2e-6)


def test_sinkhorn_balances_the_rows_that_count():
    """They get what they would get alone; the others are assigned too, and nothing is lost where none counts."""
    x, counted = scores(32, 5), np.arange(32) % 3 == 0
    found = np.asarray(sinkhorn(jnp.asarray(x), 3, jnp.asarray(counted)))
    np.testing.assert_allclose(found[counted], reference.sinkhorn(x[counted], 3), atol=2e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
    assert np.abs(found - np.asarray(sinkhorn(jnp.asarray(x), 3))).max() > 1e-3
    nobody = sinkhorn(jnp.asarray(x), 3, jnp.zeros(32, bool))
    np.testing.assert_allclose(nobody, sinkhorn(jnp.asarray(x), 3), atol=1e-6)


def test_sinkhorn_over_eight_devices_is_global():
    x, mesh = scores(32, 5, seed=3), make_mesh()
    assert mesh.size == 8
    sharded = jax.device_put(x, on_data(mesh))
    q = sinkhorn(sharded, 3)
    np.testing.assert_allclose(q, reference.sinkhorn(x, 3), atol=2e-6)
    apart = np.concatenate([reference.sinkhorn(x[i : i + 4], 3) for i in range(0, 32, 4)])
    assert np.abs(np.asarray(q) - apart).max() > 0.1


def test_sinkhorn_symmetries():
    x, rng = scores(20, 6, seed=1), np.random.default_rng(0)
    rows, columns = rng.permutation(20), rng.permutation(6)
    q = np.asarray(sinkhorn(jnp.asarray(x), 3))
    np.testing.assert_allclose(sinkhorn(jnp.asarray(x + 100.0), 3), q, atol=2e-5)
    np.testing.assert_allclose(sinkhorn(jnp.asarray(x[rows]), 3), q[rows], atol=2e-6)
    np.testing.assert_allclose(sinkhorn(jnp.asarray(x[:, columns]), 3), q[:, columns], atol=2e-6)


def test_converged_sinkhorn_ignores_a_constant_per_prototype():
    x, shift = scores(20, 6, seed=2, scale=2.0), np.float32([[0.0, 3.0, -2.0, 1.0, 0.5, -1.0]])
    shifted, plain = (np.asarray(sinkhorn(jnp.asarray(s), 300)) for s in (x + shift, x))
    np.testing.assert_allclose(shifted, plain, atol=1e-4)
    early = [np.asarray(sinkhorn(jnp.asarray(s), 1)) for s in (x + shift, x)]
    np.testing.assert_allclose(early[0], early[1], atol=1e-5)  # the first half step already takes it out


def test_sinkhorn_stands_large_and_half_precision_scores():
    large = sinkhorn(jnp.asarray(scores(8, 3, scale=1e4)), 3)
    assert np.isfinite(large).all()
    half = sinkhorn(jnp.asarray(scores(8, 3)).astype(jnp.bfloat16), 3)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half.sum(axis=1), 1.0, atol=1e-6)


def test_sinkhorn_of_constant_scores_is_uniform():
    np.testing.assert_allclose(sinkhorn(jnp.full((5, 4), 0.7), 3), 0.25, atol=1e-6)


def test_sinkhorn_needs_an_iteration():
    with pytest.raises(ValueError, match="at least one iteration, got 0"):
        sinkhorn(jnp.asarray(L), 0)


def test_entropy_reference_and_zeros():
    p = jax.nn.softmax(jnp.asarray(L), axis=-1)
    np.testing.assert_allclose(p.mean(axis=0), [0.343655, 0.333515, 0.32283], atol=1e-6)
    assert float(assignment.entropy(p.mean(axis=0))) == pytest.approx(1.0982868, abs=1e-6)
    assert float(assignment.entropy(p).mean()) == pytest.approx(1.0635030, abs=1e-6)
    np.testing.assert_allclose(assignment.entropy(jnp.asarray([[1.0, 0.0], [0.5, 0.5]])), [0.0, np.log(2)], atol=1e-7)
    gradient = jax.grad(lambda p: assignment.entropy(p))(jnp.asarray([1.0, 0.0, 0.0]))
    assert np.isfinite(gradient).all()


def test_me_max_reference_and_range():
    p = jax.nn.softmax(jnp.asarray(L), axis=-1)
    assert float(assignment.me_max(p)) == pytest.approx(3.2546e-4, abs=3e-7)
    one = jnp.zeros((4, 8)).at[:, 2].set(1.0)
    assert float(assignment.me_max(one)) == pytest.approx(np.log(8), abs=1e-6)
    assert float(assignment.me_max(jnp.eye(8))) == pytest.approx(0.0, abs=1e-6)  # each once: the mean is uniform
    middle = float(assignment.me_max(jax.nn.softmax(jnp.asarray(scores(50, 8)), axis=-1)))
    assert 0.0 < middle < np.log(8)


def test_jensen_mean_of_entropies_is_below_the_entropy_of_the_mean():
    for seed in range(5):
        p = jax.nn.softmax(jnp.asarray(scores(30, 9, seed)), axis=-1)
        mean_entropy, entropy_of_mean = float(assignment.entropy(p).mean()), float(assignment.entropy(p.mean(axis=0)))
        assert 0.0 <= mean_entropy < entropy_of_mean <= np.log(9) + 1e-6


def test_sharpen_by_hand():
    # (.6, .3, .1)^2 = (.36, .09, .01), sum .46
    p = assignment.sharpen(jnp.asarray([[0.6, 0.3, 0.1]]), 0.5)
    np.testing.assert_allclose(p, [[0.36 / 0.46, 0.09 / 0.46, 0.01 / 0.46]], atol=1e-6)
    np.testing.assert_allclose(assignment.sharpen(jnp.asarray([[0.5, 0.5, 0.0]]), 0.25), [[0.5, 0.5, 0.0]], atol=1e-7)


def test_centre_reference_and_use():
    centre = assignment.updated_centre(jnp.zeros(3), jnp.asarray(L), 0.9)
    np.testing.assert_allclose(centre, [0.004941, -0.001506, -0.006569], atol=1e-6)
    p = np.exp((np.float64(L) - np.asarray(centre)) / 0.04)
    expected = p / p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(assignment.centred(jnp.asarray(L), centre, 0.04), expected, atol=2e-5)


def test_centre_under_a_constant_teacher():
    v, centre = jnp.asarray([0.5, -1.0, 2.0]), jnp.zeros(3)
    for n in range(1, 6):
        centre = assignment.updated_centre(centre, jnp.broadcast_to(v, (7, 3)), 0.9)
        np.testing.assert_allclose(centre, (1 - 0.9**n) * v, atol=1e-6)
    converged = assignment.centred(jnp.broadcast_to(v, (7, 3)), v, 0.04)
    np.testing.assert_allclose(converged, 1 / 3, atol=1e-6)


def test_health_by_hand():
    # Five targets over four prototypes: 0 first for three of them, 1 for two; 2 and 3 for none.
    targets = jnp.asarray([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.0, 1, 0, 0], [0.2, 0.8, 0, 0], [1.0, 0, 0, 0]])
    found = health(targets)
    each = [reference.entropy(row) for row in np.asarray(targets)]
    mean = reference.entropy(np.asarray(targets).mean(axis=0))
    assert float(found["target_entropy"]) == pytest.approx(np.mean(each) / np.log(4), abs=1e-6)
    assert float(found["mean_target_entropy"]) == pytest.approx(mean / np.log(4), abs=1e-6)
    assert float(found["prototypes_in_use"]) == pytest.approx(0.5)
    # Of the third and the fourth row alone: 1 is first for both.
    some = health(targets, jnp.asarray([False, False, True, True, False]))
    assert float(some["target_entropy"]) == pytest.approx((each[2] + each[3]) / 2 / np.log(4), abs=1e-6)
    mean = reference.entropy(np.array([0.1, 0.9]))
    assert float(some["mean_target_entropy"]) == pytest.approx(mean / np.log(4), abs=1e-6)
    assert float(some["prototypes_in_use"]) == pytest.approx(1 / 2)
    # Two rows can choose two prototypes at most.
    assert float(health(jnp.eye(6)[:2])["prototypes_in_use"]) == 1.0


@pytest.mark.parametrize(("targets", "mean_entropy", "entropy", "used"), [
    (np.eye(4)[[1] * 8], 0.0, 0.0, 0.25),
    (np.full((8, 4), 0.25), 1.0, 1.0, 0.25),
    (np.eye(4)[[0, 1, 2, 3] * 2], 1.0, 0.0, 1.0),
])  # fmt: skip
def test_health_of_the_two_collapses_and_of_balance(targets, mean_entropy, entropy, used):
    found = health(jnp.asarray(targets, jnp.float32))
    assert float(found["mean_target_entropy"]) == pytest.approx(mean_entropy, abs=1e-6)
    assert float(found["target_entropy"]) == pytest.approx(entropy, abs=1e-6)
    assert float(found["prototypes_in_use"]) == pytest.approx(used)
