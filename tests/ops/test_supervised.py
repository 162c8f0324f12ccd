"""Classification losses by hand, by formulas in float64 NumPy and by their gradients; golden margins and weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.ops import supervised
from tests.reference import softmax

COUNTS = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]  # CIFAR-10 with an imbalance of 100
LOGITS = np.random.default_rng(0).normal(0, 2, (12, 5)).astype(np.float32)
LABELS = np.array([0, 4, -1, 2, 2, 1, -1, 3, 0, 4, 4, 1], np.int32)
WEIGHTS = np.array([0.2, 3.0, 0.5, 1.1, 0.7], np.float32)


def weighted(losses, labels, weights):
    """sum w l / sum w by a loop."""
    pairs = [(weights[y], loss) for loss, y in zip(losses, labels, strict=True) if y >= 0]
    return sum(w * loss for w, loss in pairs) / sum(w for w, _ in pairs)


def surprise(logits, labels):
    return -np.log([row[max(y, 0)] for row, y in zip(softmax(logits), labels, strict=True)])


def test_weighted_cross_entropy_by_hand():
    """The labels have the probabilities 3/4 (weight 2) and 1/4 (weight 1): (2 ln 4/3 + ln 4) / 3."""
    logits, labels = jnp.asarray([[0.0, np.log(3.0)], [0.0, np.log(3.0)]]), jnp.asarray([1, 0])
    found = supervised.cross_entropy(logits, labels, jnp.asarray([1.0, 2.0]))
    assert float(found) == pytest.approx((2 * np.log(4 / 3) + np.log(4)) / 3, rel=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS, 1e-3 * WEIGHTS])
def test_cross_entropy_equals_a_loop(weights):
    expected = weighted(surprise(LOGITS, LABELS), LABELS, np.ones(5) if weights is None else np.float64(weights))
    given = None if weights is None else jnp.asarray(weights)
    assert float(jax.jit(supervised.cross_entropy)(LOGITS, LABELS, given)) == pytest.approx(expected, rel=1e-5)
    folded = supervised.cross_entropy(LOGITS.reshape(3, 4, 5), LABELS.reshape(3, 4), given)
    assert float(folded) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("classes", "chance", "cosine_floor"), [(16, 2.7726, 1.1086), (6, 1.7918, 0.5168)])
def test_chance_and_the_floor_of_unscaled_cosines(classes, chance, cosine_floor):
    labels = jnp.arange(classes)
    assert float(supervised.cross_entropy(jnp.zeros((classes, classes)), labels)) == pytest.approx(chance, abs=5e-5)
    best = 2 * jnp.eye(classes) - 1
    assert float(supervised.cross_entropy(best, labels)) == pytest.approx(cosine_floor, abs=5e-5)


def test_images_without_a_label_have_neither_loss_nor_gradient():
    spoilt = np.where(LABELS[:, None] < 0, np.nan, LOGITS)
    known = LABELS >= 0
    for loss in (
        supervised.cross_entropy,
        lambda logits, labels: supervised.focal(logits, labels, 2.0),
        lambda logits, labels: supervised.ldam(logits, labels, jnp.full(5, 0.3), 30.0),
    ):
        both = jax.jit(jax.value_and_grad(loss))
        value, slope = both(jnp.asarray(spoilt), jnp.asarray(LABELS))
        assert float(value) == pytest.approx(float(jax.jit(loss)(LOGITS[known], LABELS[known])), rel=1e-6)
        np.testing.assert_array_equal(slope[~known], 0.0)
        assert np.abs(slope[known]).max(1).min() > 0
        value, slope = both(jnp.asarray(LOGITS), jnp.full(12, -1, jnp.int32))
        assert float(value) == 0.0 and not np.any(slope)


def test_a_label_beyond_the_classes_is_seen():
    assert np.isnan(supervised.cross_entropy(jnp.zeros((3, 5)), jnp.asarray([0, 5, 1]), jnp.asarray(WEIGHTS)))


def test_the_gradient_of_the_weighted_mean():
    """w (softmax - onehot) / sum w, from the derivative of -log softmax."""
    slope = jax.grad(supervised.cross_entropy)(jnp.asarray(LOGITS), LABELS, jnp.asarray(WEIGHTS))
    row_weight = np.where(LABELS >= 0, WEIGHTS[np.maximum(LABELS, 0)], 0.0)
    expected = row_weight[:, None] * (softmax(LOGITS) - np.eye(5)[np.maximum(LABELS, 0)]) / row_weight.sum()
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_the_mean_is_that_of_the_batch_on_all_devices():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    rows = jax.NamedSharding(mesh, jax.P("data"))
    loss = jax.jit(jax.value_and_grad(supervised.cross_entropy))
    value, slope = loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.asarray(WEIGHTS))
    spread, spread_slope = loss(jax.device_put(LOGITS, rows), jax.device_put(LABELS, rows), jnp.asarray(WEIGHTS))
    assert float(spread) == pytest.approx(float(value), rel=1e-6)
    np.testing.assert_allclose(spread_slope, slope, atol=1e-7)


def test_focal_loss_by_hand_and_by_a_loop():
    """p = 3/4 and gamma 2: (1/4)^2 ln 4/3; at gamma 0 it is cross-entropy. Weights do not enter p."""
    easy = jnp.asarray([[0.0, np.log(3.0)]])
    assert float(supervised.focal(easy, jnp.asarray([1]), 2.0)) == pytest.approx(np.log(4 / 3) / 16, rel=1e-5)
    for gamma in (0.0, 0.5, 2.0):
        losses = surprise(LOGITS, LABELS)
        expected = weighted((1 - np.exp(-losses)) ** gamma * losses, LABELS, np.float64(WEIGHTS))
        found = supervised.focal(jnp.asarray(LOGITS), LABELS, gamma, jnp.asarray(WEIGHTS))
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_the_focal_loss():
    """With respect to one logit by central differences in float64; finite where p rounds to 1."""
    slope = jax.grad(supervised.focal)(jnp.asarray(LOGITS[:1]), jnp.asarray([3]), 2.0)
    differences = []
    for place in range(5):
        high, low = (surprise(LOGITS[:1] + sign * 1e-5 * np.eye(5)[place], [3]) for sign in (1, -1))
        differences.append(((1 - np.exp(-high)) ** 2 * high - (1 - np.exp(-low)) ** 2 * low).item() / 2e-5)
    np.testing.assert_allclose(slope[0], differences, rtol=1e-3, atol=1e-6)
    for gamma in (0.0, 0.5, 1.0, 2.0):
        assert np.isfinite(jax.grad(supervised.focal)(jnp.asarray([[200.0, 0.0]]), jnp.asarray([0]), gamma)).all()


def test_golden_margins_of_a_long_tail():
    margins = [0.1581, 0.1797, 0.2042, 0.2321, 0.2638, 0.2998, 0.3407, 0.3872, 0.4405, 0.5]
    np.testing.assert_allclose(supervised.ldam_margins(COUNTS, 0.5), margins, atol=5e-5)
    np.testing.assert_allclose(jax.jit(supervised.ldam_margins)(jnp.asarray(COUNTS), 0.5), margins, atol=5e-5)
    np.testing.assert_allclose(supervised.ldam_margins([16, 0, 1], 0.5), [0.25, 0.0, 0.5])


def test_ldam_by_hand():
    """Scale 30 and a margin of .5 at the label: the logits .6 and .2 become 3 and 6, the loss ln(1 + e^3)."""
    cosines, margins = jnp.asarray([[0.6, 0.2]]), jnp.asarray([0.5, 0.1])
    assert float(supervised.ldam(cosines, jnp.asarray([0]), margins, 30.0)) == pytest.approx(np.log1p(np.exp(3)))
    other = supervised.ldam(cosines, jnp.asarray([1]), margins, 30.0)  # .6 and .1: 18 and 3
    assert float(other) == pytest.approx(np.log1p(np.exp(15)))


def test_ldam_equals_a_formula_and_its_gradient():
    cosines, margins = np.tanh(LOGITS), np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32)
    onehot = np.eye(5)[LABELS] * (LABELS >= 0)[:, None]
    shifted = 30 * (cosines - margins * onehot)
    value, slope = jax.jit(jax.value_and_grad(supervised.ldam))(
        jnp.asarray(cosines), LABELS, jnp.asarray(margins), 30.0, jnp.asarray(WEIGHTS)
    )
    assert float(value) == pytest.approx(weighted(surprise(shifted, LABELS), LABELS, np.float64(WEIGHTS)), rel=1e-5)
    row_weight = np.where(LABELS >= 0, WEIGHTS[LABELS], 0.0)
    expected = 30 * row_weight[:, None] * (softmax(shifted) - onehot) / row_weight.sum()
    np.testing.assert_allclose(slope, expected, atol=1e-5)


def test_ldam_without_margin_and_scale_is_cross_entropy_of_the_cosines():
    cosines, margins = jnp.tanh(jnp.asarray(LOGITS)), supervised.ldam_margins(COUNTS[:5], 1e-9)
    found = supervised.ldam(cosines, LABELS, margins, 1.0, jnp.asarray(WEIGHTS))
    plain = supervised.cross_entropy(cosines, LABELS, jnp.asarray(WEIGHTS))
    assert float(found) == pytest.approx(float(plain), rel=1e-6)


def test_golden_class_balanced_weights():
    golden = [0.0506, 0.0769, 0.1211, 0.195, 0.3188, 0.5246, 0.8683, 1.4426, 2.4092, 3.9927]
    found = supervised.class_balanced_weights(COUNTS, 0.9999)
    np.testing.assert_allclose(found, golden, atol=5e-5)
    assert float(found.sum()) == pytest.approx(10.0, rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999999])
def test_class_balanced_weights_equal_the_formula(beta):
    counts = [1, 20, 300, 5000, 1_000_000]
    raw = [(1 - beta) / (1 - np.float64(beta) ** n) for n in counts]
    found = jax.jit(supervised.class_balanced_weights, static_argnums=1)(jnp.asarray(counts), beta)
    np.testing.assert_allclose(found, 5 * np.asarray(raw) / sum(raw), rtol=2e-6)
    if beta == 0.0:
        np.testing.assert_array_equal(found, 1.0)


def test_a_class_without_images_has_no_weight():
    np.testing.assert_allclose(supervised.class_balanced_weights([5, 0, 5], 0.9), [1.5, 0.0, 1.5], rtol=1e-6)
    for beta in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"beta .* \[0, 1\)"):
            supervised.class_balanced_weights([1, 2], beta)


def test_deferred_weights_start_at_their_step_and_never_end():
    """The original indexes a list with epoch // 160, which fails from epoch 320 on."""
    weights = jax.jit(lambda step: supervised.class_weights("drw", COUNTS, 0.9999, step, 160))
    for epoch in (0, 159):
        np.testing.assert_array_equal(weights(epoch), 1.0)
    for epoch in (160, 320, 10**6):
        np.testing.assert_allclose(weights(epoch), supervised.class_balanced_weights(COUNTS, 0.9999), rtol=1e-6)


def test_the_other_rules_ignore_the_step():
    for step in (0, 1000):
        np.testing.assert_array_equal(supervised.class_weights("none", COUNTS, 0.9999, step, 160), 1.0)
        always = supervised.class_weights("class_balanced", COUNTS, 0.9999, step, 160)
        np.testing.assert_array_equal(always, supervised.class_balanced_weights(COUNTS, 0.9999))
    with pytest.raises(ValueError, match="'DRW', known: none, class_balanced, drw"):
        supervised.class_weights("DRW", COUNTS, 0.9999, 0, 160)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_smoothed_cross_entropy_is_that_of_smoothed_targets(smoothing):
    """Against targets written out, in float64; labels of -1 do not count, whatever their logits hold."""
    targets = np.eye(5)[LABELS] * (1 - smoothing) + smoothing / 5
    each = -(targets * np.log(softmax(LOGITS))).sum(1)
    logits = np.where(LABELS[:, None] < 0, np.nan, LOGITS)
    found, gradient = jax.value_and_grad(supervised.smoothed_cross_entropy)(jnp.asarray(logits), LABELS, smoothing)
    assert float(found) == pytest.approx(each[LABELS >= 0].mean(), rel=1e-5)
    assert np.isfinite(gradient).all() and (np.asarray(gradient)[LABELS < 0] == 0).all()
