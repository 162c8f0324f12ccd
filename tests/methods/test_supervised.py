"""Supervised training against its formula, its own predictions, and both kinds of network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from tests.methods.objectives import RESNET, batch, begun, judged, made, shown
from tests.reference import softmax
from tests.tiny import QUICK

KEY = jax.random.key(3)


def test_the_loss_is_the_smoothed_cross_entropy_of_every_view():
    """.8 at the label and .2 / 3 at each of three classes; an image without a label does not count."""
    changes = dict(method__label_smoothing=0.2)
    method, views = made("supervised", **changes), dict(shown("supervised", **changes))
    np.testing.assert_array_equal(views["label"], batch()["train"]["label"])
    views["label"] = views["label"].at[2].set(-1)
    params, state = begun(method, views)
    loss, (after, metrics) = judged(method)(params, state, views, KEY, jnp.int32(0))
    predict = jax.jit(method.predict, compiler_options=QUICK)
    costs, right = [], []
    for view in range(2):
        logits = np.float64(predict(params, state, views["clean"][:, view]))
        for row, label in zip(logits, np.asarray(views["label"]), strict=True):
            if label >= 0:
                costs.append(-(0.8 * np.log(softmax(row))[label] + 0.2 * np.log(softmax(row)).mean()))
                right.append(row.argmax() == label)
    assert float(loss) == pytest.approx(np.mean(costs), rel=1e-4)
    assert float(metrics["train/accuracy"]) == pytest.approx(np.mean(right))
    assert set(params["heads"]) == {"classifier"} and set(after) == {"batch_stats"}


def test_predictions_are_those_of_the_running_statistics():
    """A residual network is trained by the statistics of the batch and judged by its running ones."""
    method, views = made("supervised", RESNET), shown("supervised")
    params, state = begun(method, views)
    images = views["clean"][:, 0]
    variables = method.backbone(params, state, "teacher")
    features = RESNET.apply(variables, images)["feat"]
    logits = method.predict(params, state, images)
    np.testing.assert_allclose(logits, method.classify(params, state, features), atol=1e-5)
    weights = params["heads"]["classifier"]["linear"]
    np.testing.assert_allclose(logits, features @ weights["kernel"] + weights["bias"][None], atol=1e-5)
    _, (after, _) = judged(method)(params, state, views, KEY, jnp.int32(0))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after["batch_stats"], state["batch_stats"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(("changes", "words"), [
    (dict(method__label_smoothing=1.0), "method.label_smoothing=1.0 is no share"),
    (dict(method__views__locals=1), "set --config.method.views.locals=0"),
])  # fmt: skip
def test_what_means_nothing_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        made("supervised", **changes)
