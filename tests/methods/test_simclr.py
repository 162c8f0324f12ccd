"""SimCLR against its formula in NumPy, on both kinds of network, and on one device and eight."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from tests.methods.objectives import RESNET, begun, judged, made, shown, three_steps
from tests.tiny import QUICK, leaves

KEY = jax.random.key(3)


def projected(layers, x):
    """Linear, batch norm, ReLU, linear, batch norm without scale and bias, length 1; over all rows, in float64."""
    layers = jax.tree.map(np.float64, layers)

    def norm(x):
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)

    x = norm(x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"])
    x = np.maximum(x * layers["BatchStandardise_0"]["scale"] + layers["BatchStandardise_0"]["bias"], 0)
    x = norm(x @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"])
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("extra", [0, 1])
def test_one_step_is_its_formula(extra):
    """From the backbone's features on, by loops: all views of the batch share the statistics of the projector."""
    changes = dict(method__views__locals=extra, method__temperature=0.3)
    method, views = made("simclr", **changes), shown("simclr", **changes)
    params, state = begun(method, views)
    own = method.loss.__self__
    loss, (after, metrics) = judged(method)(params, state, views, KEY, jnp.int32(0))
    encode = jax.jit(lambda x: own.encoder.encode(params, {}, x, None, False)[0], compiler_options=QUICK)
    shapes = [views[name] for name in ("clean", "local") if name in views]
    features = [np.asarray(encode(x.reshape(-1, *x.shape[2:]))).reshape(*x.shape[:2], -1) for x in shapes]
    features = np.float64(np.concatenate(features, axis=1))
    count = features.shape[1]
    assert count == 2 + extra
    z = projected(params["projector"], features.reshape(-1, features.shape[-1]))
    cosines, image = z @ z.T, np.arange(len(z)) // count
    costs, right = [], []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        total = sum(np.exp(cosines[i, k] / 0.3) for k in others)
        costs += [-np.log(np.exp(cosines[i, k] / 0.3) / total) for k in others if image[k] == image[i]]
        right.append(image[max(others, key=lambda k: cosines[i, k])] == image[i])
    same = image[:, None] == image[None]
    assert float(loss) == pytest.approx(np.mean(costs), rel=1e-3)
    assert float(metrics["train/accuracy_contrast"]) == pytest.approx(np.mean(right))
    positives = cosines[same & ~np.eye(len(z), dtype=bool)].mean()
    assert float(metrics["health/positive_cosine"]) == pytest.approx(positives, abs=1e-3)
    assert float(metrics["health/negative_cosine"]) == pytest.approx(cosines[~same].mean(), abs=1e-3)
    assert set(after) == {"batch_stats"} and method.reconstruct is None and method.predict is None


def test_views_that_are_one_image_teach_nothing_by_their_likeness():
    """Two equal views of every image have cosine 1: a loss of ln(1 + sum of the others / e^(1/T))."""
    method, views = made("simclr", method__temperature=0.5), dict(shown("simclr"))
    views["clean"] = jnp.stack([views["clean"][:, 0]] * 2, axis=1)
    params, state = begun(method, views)
    _, (_, metrics) = judged(method)(params, state, views, KEY, jnp.int32(0))
    assert float(metrics["health/positive_cosine"]) == pytest.approx(1.0, abs=1e-5)
    assert float(metrics["train/accuracy_contrast"]) == 1.0


def test_a_residual_network_keeps_its_statistics_over_both_views():
    """In one pass: the batch statistics are those of both views together."""
    method, views = made("simclr", RESNET), shown("simclr")
    params, state = begun(method, views)
    _, (after, _) = judged(method)(params, state, views, KEY, jnp.int32(0))
    images = views["clean"].reshape(-1, 12, 12, 1)
    variables = {"params": params["backbone"], "batch_stats": state["batch_stats"]}
    _, new = RESNET.apply(variables, images, train=True, mutable=["batch_stats"])
    for name, value in leaves(new["batch_stats"]).items():
        np.testing.assert_allclose(leaves(after["batch_stats"])[name], value, atol=1e-5, err_msg=name)
    given = method.backbone(params, after, "teacher")
    assert set(given) == {"params", "batch_stats"} and given["batch_stats"] is after["batch_stats"]


def test_everything_learns_but_biases_before_a_norm():
    method, views = made("simclr"), shown("simclr")
    params, state = begun(method, views)
    gradients = jax.jit(jax.grad(lambda p: method.loss(p, state, views, KEY, 0, True)[0]), compiler_options=QUICK)(
        params
    )
    still = {name for name, x in leaves(gradients).items() if np.abs(x).max() < 1e-6}
    assert still and all(name.endswith("['bias']") for name in still)


@pytest.mark.parametrize(("changes", "words"), [
    (dict(method__views__globals=1), "set --config.method.views.globals=2"),
    (dict(method__temperature=0.0), "method.temperature=0.0 has to be above 0"),
    (dict(method__augment__global_2__size=8), "method.augment.global_2.size=8 is not data.image_size=12"),
])  # fmt: skip
def test_what_means_nothing_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        made("simclr", **changes)


def test_eight_devices_equal_one():
    """Negatives and batch statistics are those of the global batch."""
    method = made("simclr", RESNET)
    (one, first), (eight, second) = (three_steps(method, n) for n in (1, 8))
    assert len(eight.step.sharding.device_set) == 8
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    for name, value in leaves(one).items():
        np.testing.assert_allclose(leaves(eight)[name], value, atol=1e-4, err_msg=name)
