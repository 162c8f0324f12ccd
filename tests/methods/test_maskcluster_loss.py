"""The loss of MaskCluster from given cosines: against plain loops for every control, and what its health tells."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.methods.collapse import CONTROLS
from gssl_jax.methods.maskcluster import MaskCluster
from gssl_jax.ops.masking import expand
from tests import reference
from tests.tiny import tiny_method

STEP, UNIT = 40, 2  # the 20th of 29 intervals of the teacher's temperature
TEMPERATURE = 0.04 + 0.03 * 20 / 29
BATCH, CELLS = 4, 3  # images, and patches along a side


class Given(MaskCluster):
    """MaskCluster whose networks are replaced by their results: the teacher's and the student's cosines."""

    def teacher(self, teacher, views):
        return teacher

    def student(self, params, views, key, train):
        return params


def given(**changes):
    own = tiny_method(unit=UNIT, method__loss__reconstruction=0.0, **changes).loss.__self__
    return Given(own.settings, own.backbone, own.views, own.controls, own.clock)


def cosines(views=2, tokens=9, seed=0, prototypes=(6, 10)):
    rng = np.random.default_rng(seed)
    shapes = {"cls": (BATCH, views, prototypes[0]), "patch": (BATCH, 2, tokens, prototypes[1])}
    return {level: jnp.asarray(np.tanh(rng.standard_normal(shape)), jnp.float32) for level, shape in shapes.items()}


def centres(seed=5):
    rng = np.random.default_rng(seed)
    return {
        "cls": jnp.asarray(rng.normal(0, 0.1, 6), jnp.float32),
        "patch": jnp.asarray(rng.normal(0, 0.1, 10), jnp.float32),
    }


def outcome(method, taught, learned, centre, views=None):
    """(loss, metrics, next centre, gradients to the student's and the teacher's cosines and to the centres)."""

    def loss(learned, taught, centre):
        return method.loss(learned, {"teacher": taught, "centre": centre}, views or {}, jax.random.key(0), STEP, True)

    graded = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (value, (state, metrics)), gradients = graded(learned, taught, centre)
    return value, metrics, state["centre"], gradients


def check(method, taught, learned, centre, views=None, **hidden):
    value, metrics, _, (to_student, *to_targets) = outcome(method, taught, learned, centre, views)
    expected = reference.clustering(
        method.settings, *jax.tree.map(np.asarray, (taught, learned, centre)), TEMPERATURE, **hidden
    )
    for name, number in expected.items():
        assert float(metrics[name]) == pytest.approx(number, rel=2e-4), name
    assert float(value) == pytest.approx(sum(expected.values()), rel=2e-4)
    assert float(metrics["train/loss"]) == float(value)
    assert {name for name in metrics if name.startswith(("train/loss", "train/memax"))} == {*expected, "train/loss"}
    for gradient in to_student.values():
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-4
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(to_targets))  # targets and centres are constants
    return metrics


@pytest.mark.parametrize(("cls", "patch"), [*itertools.product(CONTROLS, CONTROLS)])
def test_every_pair_of_controls_equals_plain_loops(cls, patch):
    method = given(method__collapse__cls=cls, method__collapse__patch=patch)
    check(method, cosines(), cosines(seed=1), centres())


def test_local_views_serve_the_class_loss_and_its_penalty():
    method = given(method__collapse__cls="memax")
    metrics = check(method, cosines(), cosines(views=5, seed=1), centres())
    without = outcome(method, cosines(), {**cosines(seed=1)}, centres())[1]
    assert float(metrics["train/memax_cls"]) != pytest.approx(float(without["train/memax_cls"]))


def test_same_view_pairs():
    method = given(method__loss__same_view=True)
    check(method, cosines(), cosines(seed=1), centres())


def test_weights_of_the_losses():
    """Twice the class loss and its penalty, half the patch loss."""
    changes = dict(method__collapse__cls="memax", method__loss__cls=2.0, method__loss__patch=0.5)
    value, metrics, *_ = outcome(given(**changes), cosines(), cosines(seed=1), centres())
    parts = [float(metrics[f"train/{name}"]) for name in ("loss_cls", "memax_cls", "loss_patch")]
    assert float(value) == pytest.approx(2 * parts[0] + 2 * parts[1] + 0.5 * parts[2], rel=1e-5)


@pytest.mark.parametrize("patch", ["sinkhorn", "memax"])
def test_masked_tokens_alone_count_and_each_view_by_its_own_number(patch):
    places = np.random.default_rng(3).random((BATCH, 2, 9)) < 0.4
    places[0, 0] = False  # nothing hidden: this view gives zero
    mask = expand(jnp.asarray(places).reshape(BATCH, 2, CELLS, CELLS), 4)
    method = given(method__loss__patch_tokens="masked", method__collapse__patch=patch)
    taught = cosines()
    metrics = check(method, taught, cosines(seed=1), centres(), {"mask": mask}, mask=places)
    if patch == "memax":  # whose targets do not depend on which rows count
        goals = np.asarray(method._targets("patch", taught["patch"], centres()["patch"], STEP))[places]
        entropies = [reference.entropy(row) / np.log(10) for row in goals]
        assert float(metrics["health/target_entropy_patch"]) == pytest.approx(np.mean(entropies), rel=1e-4)
        firsts = len(set(goals.argmax(axis=-1))) / 10
        assert float(metrics["health/prototypes_in_use_patch"]) == pytest.approx(firsts)


@pytest.mark.parametrize("patch", ["sinkhorn", "memax"])
def test_dropped_tokens_are_compared_at_their_places_and_not_balanced(patch):
    keep = np.stack(
        [[np.sort(np.random.default_rng(9 * b + v).choice(9, 5, False)) for v in range(2)] for b in range(BATCH)]
    )
    dropped = ~(keep[..., None] == np.arange(9)).any(axis=2)
    views = {"keep": jnp.asarray(keep), "mask": expand(jnp.asarray(dropped).reshape(BATCH, 2, CELLS, CELLS), 4)}
    method = given(method__corruption__kind="drop", method__collapse__patch=patch)
    check(method, cosines(), cosines(tokens=5, seed=1), centres(), views, keep=keep)


def test_positionwise_sinkhorn_balances_each_position():
    method = given(method__sinkhorn__positionwise=True, method__sinkhorn__iterations=100)
    taught = cosines()
    check(method, taught, cosines(seed=1), centres())
    balanced = np.asarray(method._targets("patch", taught["patch"], centres()["patch"], STEP))
    np.testing.assert_allclose(balanced.sum(axis=(0, 1)), BATCH * 2 / 10, atol=0.02)  # [N, K]: every row of it
    np.testing.assert_allclose(balanced.sum(axis=-1), 1.0, atol=1e-5)
    together = given(method__sinkhorn__iterations=100)._targets("patch", taught["patch"], centres()["patch"], STEP)
    assert np.abs(np.asarray(together).sum(axis=(0, 1)) - BATCH * 2 / 10).max() > 0.5


def test_the_centre_moves_after_it_was_used():
    method = given(method__collapse__cls="centring", method__collapse__patch="centring")
    taught, learned, before = cosines(), cosines(seed=1), centres()
    loss, _, after, _ = outcome(method, taught, learned, before)
    for level, centre in after.items():
        mean = np.asarray(taught[level]).reshape(-1, centre.shape[0]).mean(axis=0)
        np.testing.assert_allclose(centre, 0.9 * before[level] + 0.1 * mean, atol=1e-6)
    check(method, taught, learned, before)
    assert abs(float(outcome(method, taught, learned, after)[0]) - float(loss)) > 1e-3
    other = given(method__collapse__cls="sinkhorn", method__collapse__patch="centring")
    kept = outcome(other, taught, learned, before)[2]
    np.testing.assert_array_equal(kept["cls"], before["cls"])
    np.testing.assert_array_equal(kept["patch"], after["patch"])


def constant(seed=0):
    """Cosines of an encoder that gives every image and token the same embedding."""
    return {level: jnp.broadcast_to(x.reshape(-1, x.shape[-1])[0], x.shape) for level, x in cosines(seed=seed).items()}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_constant_encoder_is_seen(control):
    method = given(method__collapse__cls=control, method__collapse__patch=control)
    taught, learned = constant(), constant(seed=1)
    converged = {level: x.reshape(-1, x.shape[-1])[0] for level, x in taught.items()}
    _, metrics, *_ = outcome(method, taught, learned, converged)
    for level, k in (("cls", 6), ("patch", 10)):
        # One and the same target for every row: entropy of the mean and mean of the entropies agree.
        assert float(metrics[f"health/mean_target_entropy_{level}"]) == pytest.approx(
            float(metrics[f"health/target_entropy_{level}"]), abs=1e-5
        )
        assert float(metrics[f"health/prototypes_in_use_{level}"]) == pytest.approx(
            1 / min(k, 8 if level == "cls" else 72)
        )
        if control in ("sinkhorn", "centring"):  # targets become uniform, and the loss cannot fall below ln K
            assert float(metrics[f"health/target_entropy_{level}"]) == pytest.approx(1.0, abs=1e-5)
            assert float(metrics[f"train/loss_{level}"]) >= np.log(k)
        if control == "memax":
            p = reference.softmax(np.asarray(learned[level]) / 0.1).reshape(-1, k)[0]
            assert float(metrics[f"train/memax_{level}"]) == pytest.approx(np.log(k) - reference.entropy(p), rel=1e-4)
        if control == "none":  # nothing holds it back: the targets are as sharp as the temperature makes them
            assert float(metrics[f"health/target_entropy_{level}"]) < 0.9


def test_agreement_is_across_views_for_the_class_and_within_for_patches():
    taught = {
        "cls": jnp.eye(6)[jnp.asarray([[0, 1]] * BATCH)],
        "patch": jnp.eye(10)[jnp.arange(72).reshape(BATCH, 2, 9) % 10],
    }
    swapped = {"cls": taught["cls"][:, ::-1], "patch": taught["patch"].at[:, :, :3].multiply(-1.0)}
    method = given(method__collapse__cls="none", method__collapse__patch="none")
    metrics = outcome(method, taught, swapped, centres())[1]
    assert float(metrics["health/agreement_cls"]) == 1.0
    assert float(metrics["health/agreement_patch"]) == pytest.approx(6 / 9)


def test_health_looks_at_a_bounded_number_of_rows():
    """Of 72 patch targets, each pointing to the prototype of its place among 9. Eight rows at a stride would all be of
    the first place; a draw finds more, and as one row always has one prototype in use, the bound is seen at 1."""
    targets = jnp.broadcast_to(jnp.eye(10)[:9], (BATCH, 2, 9, 10))
    taught = {**cosines(), "patch": targets}

    def in_use(limit):
        method = given(method__collapse__patch="none", method__health_rows=limit)
        return float(outcome(method, taught, cosines(seed=1), centres())[1]["health/prototypes_in_use_patch"])

    assert in_use(4096) == pytest.approx(9 / 10)  # all rows: nine of ten prototypes
    assert in_use(1) == 1.0  # of min(rows, prototypes) = 1
    assert 2 / 8 <= in_use(8) <= 1.0
