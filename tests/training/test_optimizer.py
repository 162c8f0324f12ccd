"""AdamW against plain NumPy, over a whole run with its schedules, its clipping, its mask and its late prototypes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Clock
from gssl_jax.training.optimizer import (
    build_optimiser,
    decays,
    heads_warm_up,
    hold,
    learning_rate,
    schedules_of,
    weight_decay,
)

TOTAL = 12


def settings(**changes):
    values = dict(
        learning_rate=0.02, final_learning_rate=0.001, batch_size=512, warmup=3.0, weight_decay=0.1,
        final_weight_decay=0.5, decay_positions=True, beta1=0.8, beta2=0.9, clip_norm=0.0, freeze_prototypes=0.0,
        freeze_backbone=0.0,
        name="adamw", schedule="cosine", reference_batch=256, milestones=(), factors=(), decay_vectors=False,
        momentum=0.9, nesterov=False, duration=float(TOTAL),
    )  # fmt: skip
    return ConfigDict({**values, **changes})


def rate_by_hand(step):
    """Ramp to .02 * 512 / 256 = .04 over 3 steps, then half a cosine over 9."""
    return 0.04 * (step + 1) / 3 if step < 3 else 0.001 + 0.039 * 0.5 * (1 + np.cos(np.pi * (step - 3) / 9))


def decay_by_hand(step):
    return 0.5 - 0.4 * 0.5 * (1 + np.cos(np.pi * step / TOTAL))


def start():
    rng = np.random.default_rng(0)
    return {"backbone": {"kernel": rng.standard_normal((3, 2)), "bias": rng.standard_normal(3)},
            "prototypes": {"directions": rng.standard_normal((2, 2))}}  # fmt: skip


def gradients():
    """One tree a step; every third is ten times as long."""
    rng, shapes = np.random.default_rng(1), start()
    return [
        jax.tree.map(lambda x, s=s: rng.standard_normal(x.shape) * (10 if s % 3 == 2 else 1), shapes)
        for s in range(TOTAL)
    ]


def adamw_by_hand(clip, frozen, total=TOTAL, layer="prototypes"):
    p = start()
    flat = {(a, b): p[a][b] for a in p for b in p[a]}
    m, v = ({k: np.zeros_like(x) for k, x in flat.items()} for _ in range(2))
    history = []
    for step, tree in enumerate(gradients()[:total]):
        g = {k: tree[k[0]][k[1]] * (0.0 if k[0] == layer and step < frozen else 1.0) for k in flat}
        norm = np.sqrt(sum(np.sum(x**2) for x in g.values()))
        for k in flat:
            clipped = g[k] * min(1.0, clip / norm) if clip else g[k]
            m[k] = 0.8 * m[k] + 0.2 * clipped
            v[k] = 0.9 * v[k] + 0.1 * clipped**2
            age = step + 1 - (frozen if k[0] == layer else 0)  # moments of a frozen layer begin when it is free
            if age < 1:
                continue
            direction = m[k] / (1 - 0.8**age) / (np.sqrt(v[k] / (1 - 0.9**age)) + 1e-8)
            if flat[k].ndim > 1:
                direction = direction + decay_by_hand(step) * flat[k]
            flat[k] = flat[k] - rate_by_hand(step) * direction
        history.append(dict(flat))
    return history


@pytest.mark.parametrize(
    ("clip", "frozen", "layer"),
    [(0.0, 0.0, "prototypes"), (2.0, 0.0, "prototypes"), (2.0, 4.0, "prototypes"), (2.0, 3.0, "backbone")],
)
def test_a_whole_run_equals_plain_numpy(clip, frozen, layer):
    optimiser = build_optimiser(settings(clip_norm=clip, **{f"freeze_{layer}": frozen}), Clock(TOTAL, 1))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start())
    state, first = optimiser.init(params), params
    update = jax.jit(optimiser.update)
    for step, (tree, expected) in enumerate(zip(gradients(), adamw_by_hand(clip, frozen, layer=layer), strict=True)):
        updates, state = update(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree), state, params)
        params = optax.apply_updates(params, updates)
        for (a, b), value in expected.items():
            np.testing.assert_allclose(params[a][b], value, atol=2e-5, err_msg=f"{a} {b} after step {step}")
        for name, leaf in params[layer].items():
            held = np.asarray(leaf == first[layer][name])
            assert held.all() if step < frozen else not held.any()


def test_schedules_at_their_corners():
    clock = Clock(total=TOTAL, unit=1)
    rate, decay = learning_rate(settings(), clock), weight_decay(settings(), clock)
    np.testing.assert_allclose([rate(s) for s in range(TOTAL)], [rate_by_hand(s) for s in range(TOTAL)], rtol=1e-5)
    assert float(rate(TOTAL)) == pytest.approx(0.001)
    assert [float(decay(s)) for s in (0, 6, 12)] == pytest.approx([0.1, 0.3, 0.5])
    assert {name: float(s(6)) for name, s in schedules_of(settings(), clock).items()} == {
        "learning_rate": float(rate(6)), "weight_decay": float(decay(6))
    }  # fmt: skip


def test_durations_count_units():
    """A warm-up of 1.5 epochs of 4 steps: the peak after 6."""
    rate = learning_rate(settings(warmup=1.5), Clock(total=40, unit=4))
    assert float(rate(5)) == pytest.approx(0.04) and float(rate(4)) < 0.04


def test_what_decays():
    vector, matrix, tokens = np.zeros(4), np.zeros((4, 8)), np.zeros((1, 2, 4))
    norm = {"scale": vector, "bias": vector}
    block = {"fc1": {"kernel": matrix, "bias": vector}, "norm1": norm, "scale1": vector}
    params = {
        "backbone": {"cls_token": tokens, "positions": matrix, "registers": tokens, "block_0": block},
        "prototypes": {"cls": {"directions": matrix}},
        "heads": {"mask_token": vector},
    }
    for positions in (True, False):
        found = decays(params, positions, False)
        block = found["backbone"]["block_0"]
        assert block["fc1"] == {"kernel": True, "bias": False}
        assert block["norm1"] == {"scale": False, "bias": False} and block["scale1"] is False
        assert found["prototypes"]["cls"]["directions"] is True
        tokens = {found["backbone"][name] for name in ("cls_token", "positions", "registers")} | {
            found["heads"]["mask_token"]
        }
        assert tokens == {positions}


def test_hold_opens_after_its_steps():
    held = hold("prototypes", 2)
    updates = {"prototypes": {"a": jnp.ones(3)}, "backbone": jnp.full(2, 5.0)}
    state = held.init(updates)
    for step in range(4):
        out, state = held.update(updates, state)
        np.testing.assert_array_equal(out["prototypes"]["a"], np.full(3, float(step >= 2)))
        np.testing.assert_array_equal(out["backbone"], updates["backbone"])


def sgd_by_hand(nesterov):
    """torch's SGD: g <- g + wd p; m <- .9 m + g; p <- p - lr (g + .9 m) with Nesterov, else p - lr m."""
    p = start()
    flat = {(a, b): p[a][b] for a in p for b in p[a]}
    m = {k: np.zeros_like(x) for k, x in flat.items()}
    for tree in gradients():
        for k in flat:
            g = tree[k[0]][k[1]] + 0.1 * flat[k]
            m[k] = 0.9 * m[k] + g
            flat[k] = flat[k] - 0.02 * (g + 0.9 * m[k] if nesterov else m[k])
    return flat


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_that_of_torch(nesterov):
    """A constant rate of .02 whatever the batch, and decay of everything, in the gradient."""
    chosen = settings(
        name="sgd", nesterov=nesterov, schedule="steps", reference_batch=0, warmup=0.0, final_weight_decay=0.1,
        decay_vectors=True,
    )  # fmt: skip
    optimiser = build_optimiser(chosen, Clock(TOTAL, 1))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start())
    state = optimiser.init(params)
    for tree in gradients():
        updates, state = optimiser.update(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree), state, params)
        params = optax.apply_updates(params, updates)
    for (a, b), value in sgd_by_hand(nesterov).items():
        np.testing.assert_allclose(params[a][b], value, rtol=2e-5, atol=2e-5)


def test_schedules_of_the_published_codes():
    """LDAM-DRW: epochs counted from 1, lr e / 5 up to the fifth, lr / 100 from 161, lr / 10,000 from 181."""
    base = dict(reference_batch=0, learning_rate=0.1, batch_size=128)
    clock = Clock(200 * 7, 7)
    rate = learning_rate(
        settings(schedule="steps", warmup=5.0, milestones=(160, 180), factors=(1e-2, 1e-4), **base), clock
    )
    epochs = {1: 0.02, 4: 0.08, 5: 0.1, 6: 0.1, 160: 0.1, 161: 1e-3, 180: 1e-3, 181: 1e-5, 200: 1e-5}
    for epoch, value in epochs.items():
        for step in (7 * (epoch - 1), 7 * epoch - 1):
            assert float(rate(step)) == pytest.approx(value, rel=1e-5), epoch
    # FixMatch at 0, 50 and 100 per cent, and the cosine of the adversarial recipe from .1 to 1e-6 (golden vectors).
    rate = learning_rate(settings(schedule="fixmatch", **base | {"learning_rate": 0.03}), clock)
    assert [float(rate(s)) for s in (0, 700, 1400)] == pytest.approx([0.03, 0.023190, 0.005853], abs=1e-6)
    rate = learning_rate(settings(warmup=0.0, final_learning_rate=1e-6, **base), clock)
    assert [float(rate(s)) for s in (0, 700, 1400)] == pytest.approx([0.1, 0.0500005, 1e-6], abs=1e-7)
    # Tiny-ImageNet: a cosine that changes with the epoch.
    by_epoch = settings(schedule="cosine_by_unit", warmup=0.0, final_learning_rate=0.0, duration=200.0, **base)
    rate = learning_rate(by_epoch, clock)
    assert float(rate(699)) == float(rate(693)) == pytest.approx(0.05 * (1 + np.cos(np.pi * 99 / 200)), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(name="adam"), "optim.name.*adamw"),
        (dict(schedule="cosin"), "optim.schedule.*cosine"),
        (dict(milestones=(3,)), "optim.milestones"),
    ],
)
def test_words_that_mean_nothing_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        build_optimiser(settings(**change), Clock(TOTAL, 1))


@pytest.mark.parametrize(
    ("units", "published", "expected"), [(-1.0, True, 2.0), (-1.0, False, 0.0), (0.0, True, 0.0), (3.0, False, 3.0)]
)
def test_heads_warm_up_for_a_twentieth_of_a_stage_from_published_weights(units, published, expected):
    assert heads_warm_up(settings(freeze_backbone=units, duration=40.0, unit="epoch"), published) == expected


def test_another_negative_warm_up_is_refused():
    with pytest.raises(UserError, match="optim.freeze_backbone=-2.0: give 0 or more epochs, or -1.0"):
        heads_warm_up(settings(freeze_backbone=-2.0, unit="epoch"), True)
