"""MoCo-v3 against its formula in NumPy, its teacher, and what no gradient may reach."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from tests.methods.objectives import RESNET, begun, judged, made, shown
from tests.methods.test_simclr import projected
from tests.tiny import QUICK, leaves

KEY = jax.random.key(3)


def test_one_step_is_its_formula():
    """2 T (CE(q_1 k_2) + CE(q_2 k_1)) from the features on, in float64 loops (arXiv 2104.02057, algorithm 1)."""
    method, views = made("moco_v3", method__temperature=0.25), shown("moco_v3", method__temperature=0.25)
    params, state = begun(method, views)
    loss, (after, metrics) = judged(method)(params, state, views, KEY, jnp.int32(0))
    encode = jax.jit(method.loss.__self__.network.encoder.backbone.apply, compiler_options=QUICK)
    q, k = [], []
    for view in range(2):
        images = views["clean"][:, view]
        for tree, rows, found in ((params, q, True), (state["teacher"], k, False)):
            features = np.float64(encode({"params": tree["backbone"]}, images)["feat"])
            rows.append(unit_of(tree, features, found))
    total, right = 0.0, []
    for one, other in ((0, 1), (1, 0)):
        for i, query in enumerate(q[one]):
            scores = np.exp([query @ key / 0.25 for key in k[other]])
            total += 2 * 0.25 * -math.log(scores[i] / scores.sum()) / len(q[one])
            right.append(scores.argmax() == i)
    assert float(loss) == pytest.approx(total, rel=1e-3)
    assert float(metrics["train/accuracy_contrast"]) == pytest.approx(np.mean(right))
    positives = np.mean([(q[a] * k[b]).sum(1).mean() for a, b in ((0, 1), (1, 0))])
    assert float(metrics["health/positive_cosine"]) == pytest.approx(positives, abs=1e-3)
    assert set(after) == {"batch_stats", "teacher", "teacher_batch_stats"}


def unit_of(tree, features, predicted):
    """Projector, and predictor where there is one; only the last of them ends at length 1."""
    layers = jax.tree.map(np.float64, tree["projector"])
    if not predicted:
        return projected(layers, features)
    return projected(tree["predictor"], standardised_only(layers, features))


def standardised_only(layers, x):
    """The projector without its division by the length."""

    def norm(x):
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)

    x = norm(x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"])
    x = np.maximum(x * layers["BatchStandardise_0"]["scale"] + layers["BatchStandardise_0"]["bias"], 0)
    return norm(x @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"])


def test_equal_queries_and_keys_cost_two_tau_ln_b_each_way():
    """Batch norm of features that do not vary is 0: every cosine is the same."""
    method, views = made("moco_v3"), dict(shown("moco_v3"))
    views["clean"] = jnp.full_like(views["clean"], 0.3)
    params, state = begun(method, views)
    loss, _ = judged(method)(params, state, views, KEY, jnp.int32(0))
    assert float(loss) == pytest.approx(4 * method.loss.__self__.settings.temperature * math.log(8), rel=1e-4)


def test_the_teacher_has_no_predictor_and_no_gradient():
    method, views = made("moco_v3", RESNET), shown("moco_v3")
    params, state = begun(method, views)
    assert set(params) == {"backbone", "projector", "predictor"} and set(state["teacher"]) == {"backbone", "projector"}

    def loss(params, teacher):
        return method.loss(params, {**state, "teacher": teacher}, views, KEY, jnp.int32(0), True)[0]

    of_params, of_teacher = jax.jit(jax.grad(loss, argnums=(0, 1)), compiler_options=QUICK)(params, state["teacher"])
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(of_teacher))
    still = {name for name, x in leaves(of_params).items() if np.abs(x).max() < 1e-6}
    assert all("['bias']" in name for name in still)


def test_the_teacher_follows():
    method, views = made("moco_v3", total=10, method__momentum__start=0.9, method__momentum__end=1.0), shown("moco_v3")
    params, state = begun(method, views)
    for step, momentum in ((0, 0.9), (5, 0.95), (10, 1.0)):
        after = leaves(method.after_update(params, state, jnp.int32(step))["teacher"])
        for name, old in leaves(state["teacher"]).items():
            new = leaves({part: params[part] for part in ("backbone", "projector")})[name]
            np.testing.assert_allclose(after[name], momentum * old + (1 - momentum) * new, atol=1e-6)


@pytest.mark.parametrize(("changes", "words"), [
    (dict(method__views__locals=1), "moco_v3 compares two global views"),
    (dict(method__views__globals=3), "set --config.method.views.globals=2"),
    (dict(method__temperature=-1.0), "method.temperature=-1.0 has to be above 0"),
    (dict(method__momentum__curve="cosin"), "did you mean 'cosine'"),
])  # fmt: skip
def test_what_means_nothing_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        made("moco_v3", **changes)
