"""Schedules, momentum, batches, crops, losses and scores, by hand and against optax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import roc_auc_score

from gssl_jax.errors import UserError
from gssl_jax.evals import sgd


def test_the_rate_falls_at_its_milestones():
    rates = [sgd.rate_at(step, 30.0, (1651, 3333), 0.1) for step in (0, 1650, 1651, 3332, 3333, 4999)]
    np.testing.assert_allclose(rates, [30, 30, 3, 3, 0.3, 0.3], rtol=1e-6)


def test_momentum_is_torchs():
    """optax.sgd, and by hand: w = 1, gradients 1, 1, rates .1, .01: 1 - .1 - .01 * 1.9."""
    w, m = {"a": jnp.ones(2)}, {"a": jnp.zeros(2)}
    expected, rule = {"a": jnp.ones(2)}, optax.sgd(0.1, momentum=0.9)
    state = rule.init(expected)
    for g in (1.0, -2.0):
        gradient = {"a": jnp.full(2, g)}
        w, m = sgd.moved(w, m, gradient, {"a": 0.1}, 0.9)
        update, state = rule.update(gradient, state)
        expected = optax.apply_updates(expected, update)
    np.testing.assert_allclose(w["a"], expected["a"], rtol=1e-6)
    w, m = {"a": jnp.ones(1)}, {"a": jnp.zeros(1)}
    for rate in (0.1, 0.01):
        w, m = sgd.moved(w, m, {"a": jnp.ones(1)}, {"a": rate}, 0.9)
    np.testing.assert_allclose(w["a"], [1 - 0.1 - 0.019], rtol=1e-6)


def test_batches_go_through_all_rows_before_any_comes_again():
    rows = sgd.rows_of(10, 4, (0, 1))
    drawn = np.concatenate([next(rows) for _ in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10)) and drawn[:10].tolist() != list(range(10))
    again, other = sgd.rows_of(10, 4, (0, 1)), sgd.rows_of(10, 4, (0, 2))
    np.testing.assert_array_equal(next(again), drawn[:4])
    assert next(other).tolist() != drawn[:4].tolist()
    assert np.bincount(next(sgd.rows_of(3, 7, (0,)))).tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])


def test_crops_show_parts_and_flips():
    """A ramp from left to right: a crop spans less of it, a flipped one falls; the whole image is left as it is."""
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, None, :, None] * 17, (200, 16, 16, 3))
    crop = jax.jit(sgd.cropped, static_argnums=(2, 3))
    views = np.asarray(crop(ramp, jax.random.key(0), (0.08, 1.0), 0.5))
    spans = views[:, 8, -1, 0] - views[:, 8, 0, 0]
    assert views.shape == ramp.shape and views.min() >= 0 and views.max() <= 1
    assert 70 < (spans < 0).sum() < 130 and np.abs(spans).min() < 0.5 < np.abs(spans).max()
    same = np.asarray(crop(ramp, jax.random.key(0), (1.0, 1.0), 0.0))
    assert (np.abs(same - ramp / 255).max((1, 2, 3)) < 1e-5).any()


def test_losses_leave_out_what_is_not_known():
    logits = jnp.asarray([[1.0, -2.0], [0.5, 0.0], [9.0, -9.0]])
    by_class = -np.mean([1 - np.log(np.exp(1) + np.exp(-2)), 0 - np.log(np.exp(0.5) + 1)])
    np.testing.assert_allclose(sgd.class_loss(logits, jnp.asarray([0, 1, -1])), by_class, rtol=1e-6)
    several = jnp.asarray([[1.0, 0.0], [np.nan, 1.0], [np.nan, np.nan]])
    by_label = np.mean([np.log1p(np.exp(-1)), np.log1p(np.exp(-2)), np.log1p(np.exp(0))])
    np.testing.assert_allclose(sgd.class_loss(logits, several), by_label, rtol=1e-6)
    assert np.isfinite(jax.grad(sgd.class_loss)(logits, several)).all()
    assert sgd.class_loss(logits, jnp.full(3, -1)) == 0


def test_scores_by_the_kind_of_label():
    scores = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [1.0, 1.5]])
    labels, several = np.array([0, 1, 1, -1]), np.array([[1, 0], [0, 1], [1, np.nan], [0, 0]])
    assert sgd.score_of(scores, labels) == pytest.approx(2 / 3) and sgd.metric_of(labels) == "top1"
    by_hand = (roc_auc_score(several[:, 0], scores[:, 0]) + roc_auc_score([0, 1, 0], scores[[0, 1, 3], 1])) / 2
    assert sgd.metric_of(several) == "map" and sgd.score_of(scores, several) == pytest.approx(1.0)
    # turned round: of a the positives are last and next to last but one, of b the positive is last of three
    assert sgd.score_of(-scores, several) == pytest.approx(((1 / 3 + 2 / 4) / 2 + 1 / 3) / 2)
    assert np.isnan(sgd.score_of(scores, np.full(4, -1)))
    options = {"classes": ("a", "b"), "protocol": {"x": 1}, "seed": 0, "resamples": 50}
    found = sgd.scored(scores, labels, **options)["top1"]
    assert found["value"] == pytest.approx(2 / 3) and found["n"] == 3 and found["interval"] == "bootstrap-test"
    assert sgd.scored(scores, several, **options)["auroc"]["value"] == pytest.approx(by_hand)
    found = sgd.over_draws([scores, -scores], several, {"x": 1})
    assert set(found) == {"map", "auroc", "f1_macro", "f1_micro"} and found["auroc"]["interval"] == "t-draws"
    assert found["auroc"]["protocol"]["values"] == pytest.approx([by_hand, 1 - by_hand])
    assert found["f1_micro"]["protocol"]["values"][1] == 0.0  # no logit is above 0
    assert sgd.without_value(several, {}, "why")["map"]["protocol"] == {"problem": "why"}


def test_training_and_validation_images_are_apart_and_labelled():
    labels = np.array([-1] * 5 + [0] * 50 + [1] * 10 + [2])
    rows, held = sgd.divided(labels, 0.2, 0)
    assert not set(rows) & set(held) and sorted([*rows, *held]) == list(range(5, 66))
    assert np.bincount(labels[held], minlength=3).tolist() == [10, 2, 0]
    several = np.where(labels[:, None] < 0, np.nan, np.eye(3)[labels])
    rows, held = sgd.divided(several, 0.2, 0)
    assert len(held) == 12 and not set(rows) & set(held) and sorted([*rows, *held]) == list(range(5, 66))
    with pytest.raises(UserError, match="share of 0.01 leaves 0 of 4 labelled images"):
        sgd.divided(np.array([0, 0, 1, 1]), 0.01, 0)
