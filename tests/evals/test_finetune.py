"""HPT's fine-tuning: schedules by both readings, what trains and how fast, and what the grid is chosen by."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.evals import finetune as module
from gssl_jax.evals import sgd, tuning
from gssl_jax.evals.finetune import Schedule, finetune, schedules
from gssl_jax.evals.sgd import Pool
from gssl_jax.models.resnet import ResNet
from gssl_jax.models.vit import ViT
from gssl_jax.presets import evaluation
from gssl_jax.training.trainable import trained

NAMES = ("dark", "middling", "bright")
RESNET = ResNet(image_size=8, block="basic", depths=(1,), widths=(4,), stem_width=4, channels=1)
VIT = ViT(image_size=8, patch=4, width=8, depth=1, heads=2, channels=1, drop_path=0.1)
REGRESSION = {"l2_grid": (1e-3, 1e-1), "validation": 0.2, "train_images": 0, "max_iterations": 200, "tolerance": 1e-4}
OPTIONS = {"name": "9", "feature": "feat", "classes": NAMES, "seed": 0, "resamples": 50, "regression": REGRESSION}


def settings(**changes):
    chosen = evaluation("digits", "", "train", "test", 8).finetune
    chosen.update(
        dict(labels=(9,), steps=40, milestones=(25, 35), batch_size=12, learning_rates=(0.01, 1e-6)) | changes
    )
    return chosen


@pytest.fixture(scope="module")
def variables():
    return {net: jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1))) for net in (RESNET, VIT)}


def images(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 3).astype(np.int32)
    pixels = 40 + 80 * labels[:, None, None, None] + rng.integers(-20, 20, (count, 8, 8, 1))
    return pixels.astype(np.uint8), labels


def pool(count=18, seed=0, kind=lambda labels: labels):
    pixels, labels = images(count, seed)
    given = kind(labels)
    return Pool(given, lambda rows: (pixels[rows], given[rows]), "crops")


def opened(seed, turned=False, kind=lambda labels: labels):
    pixels, labels = images(24, seed)
    given = kind(labels[::-1] if turned else labels)
    return lambda: [{"image": pixels, "label": given, "valid": np.ones(24, bool)}]


def test_drops_by_both_readings():
    """HPT counts the 4 batches of a step: 833 / 4 = 208.25 and 1667 / 4 = 416.75 steps; an epoch is an epoch."""
    plain = settings(steps=2500, milestones=(833, 1667), epochs=90, batch_size=256)
    for drops, places in (("intended", (833, 1667)), ("code", (208, 416))):
        plain.drops = drops
        assert schedules(plain, 1000) == [Schedule("2500 steps", 2500, places), Schedule("90 epochs", 270, (90, 180))]
    plain.update(dict(steps=0, epochs=2))
    assert schedules(plain, 100) == [Schedule("2 epochs", 2, (30, 60))]


def test_a_step_by_hand(variables):
    """All of the network moves, on the batch's statistics; the head a hundred times as fast."""
    own, (pixels, labels), key = variables[RESNET], images(6, 0), jax.random.key(1)
    head = {"weight": jax.random.normal(jax.random.key(2), (4, 3)), "bias": jnp.zeros(3)}
    params, rest = {"backbone": own["params"], "head": head}, {"batch_stats": own["batch_stats"]}
    options = {"backbone": RESNET, "feature": "feat", "scale": (0.5, 1.0), "flip": 0.5}
    rule = tuning.rule_of(settings())
    begun = tuning.moments(rule).init(params)
    found, _, new = module._step(params, begun, rest, pixels, labels, key, np.float32(0.1), rule=rule, **options)
    views = jax.jit(sgd.cropped, static_argnums=(2, 3))(pixels, module.named(key, "crop"), (0.5, 1.0), 0.5)

    def loss(params):
        values = {"params": params["backbone"], **rest}
        out, stats = RESNET.apply(values, views, use_running_average=False, mutable=["batch_stats"])
        logits = out["feat"] @ params["head"]["weight"] + params["head"]["bias"][None]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), labels]), stats

    gradient, stats = jax.jit(jax.grad(loss, has_aux=True))(params)
    for part, rate in (("backbone", 0.1), ("head", 10.0)):
        expected = jax.tree.map(lambda w, g, r=rate: w - r * g, params[part], gradient[part])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found[part], expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), new["batch_stats"], stats["batch_stats"])
    assert np.abs(new["batch_stats"]["norm_stem"]["mean"] - rest["batch_stats"]["norm_stem"]["mean"]).max() > 0


@pytest.mark.parametrize("network", [RESNET, VIT], ids=["resnet", "vit"])
def test_a_separable_set_is_learned_and_the_better_rate_chosen(network, variables):
    before = jax.tree.map(np.array, variables[network])
    given = network, network.apply, variables[network], [pool()], opened(1)
    ((name, found),) = finetune(*given, opened(2), settings=settings(), **OPTIONS).items()
    told = json.loads(json.dumps(found))["protocol"]
    assert name == "finetune_9/top1" and found["value"] > 0.8 and found["interval"] == "bootstrap-test"
    assert told["chosen"] == ["rate 0.01, 40 steps"] and list(told["grid"][0]) == [
        "rate 0.01, 40 steps",
        "rate 1e-06, 40 steps",
    ]
    assert told["labels"] == [18] and told["schedules"] == {"40 steps": {"steps": 40, "drops": [25, 35]}}
    jax.tree.map(np.testing.assert_array_equal, variables[network], before)


def test_the_test_images_choose_nothing(variables):
    given = VIT, VIT.apply, variables[VIT], [pool()], opened(1)
    runs = [finetune(*given, opened(2, turned), settings=settings(), **OPTIONS)["finetune_9/top1"] for turned in (0, 1)]
    assert runs[0]["value"] > runs[1]["value"]
    for told in ("grid", "chosen"):
        assert runs[0]["protocol"][told] == runs[1]["protocol"][told]


def test_several_labels_several_draws_and_validations_on_the_way(variables):
    def several(labels):
        found = np.eye(3, dtype=np.float32)[labels]
        found[::5, 1] = np.nan
        return found

    pools = [pool(seed=seed, kind=several) for seed in (0, 3)]
    given = VIT, VIT.apply, variables[VIT], pools, opened(1, kind=several), opened(2, kind=several)
    found = finetune(*given, settings=settings(every=10, draws=2), **OPTIONS)
    assert set(found) == {f"finetune_9/{name}" for name in ("map", "auroc", "f1_macro", "f1_micro")}
    found = found["finetune_9/auroc"]
    assert found["interval"] == "t-draws" and found["n"] == 2 and found["value"] > 0.7
    assert found["value"] == pytest.approx(np.mean(found["protocol"]["values"]))
    assert len(found["protocol"]["grid"]) == len(found["protocol"]["chosen"]) == 2


def test_the_best_of_several_validations_is_kept(variables):
    scores = iter([0.2, 0.7, 0.7, 0.1])
    seen = []

    def judged(state, head):
        seen.append(jax.tree.map(np.array, head))
        return next(scores)

    quick = settings(every=3, batch_size=4)
    plan = Schedule("10 steps", 10, ())
    kept = module.tune(VIT, variables[VIT], pool(), judged, quick, 0.01, plan, "feat", 3, (0, 0))
    assert kept.score == 0.7 and len(seen) == 4
    jax.tree.map(np.testing.assert_array_equal, kept.head, seen[1])


def test_training_that_diverges_everywhere_has_no_value(variables):
    wild = settings(learning_rates=(1e30,), steps=4)
    given = VIT, VIT.apply, variables[VIT], [pool()], opened(1), opened(2)
    found = finetune(*given, settings=wild, **OPTIONS)["finetune_9/top1"]
    assert found["value"] is None and "lower evals.finetune.learning_rates" in found["protocol"]["problem"]


def test_one_program_serves_the_grid(variables):
    before = module._step._cache_size()
    other = settings(learning_rates=(0.02, 0.004), steps=2, batch_size=5)
    finetune(VIT, VIT.apply, variables[VIT], [pool()], opened(1), opened(2), settings=other, **OPTIONS)
    assert module._step._cache_size() - before <= 2  # fresh arrays once, those of a step after


MODERN = {"optimiser": "adamw", "schedule": "cosine", "learning_rates": (0.003,), "head_rate": 1.0, "warmup": 0.1}
MODERN |= {"weight_decay": 0.05, "layer_decay": 0.75, "label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("network", "changes"),
    [(VIT, {"drop_path": 0.2}), (RESNET, {}), (VIT, {"trains": "heads"}), (VIT, {"trains": "norm"}),
     (VIT, {"trains": "last_k"}), (RESNET, {"trains": "heads"})],
)  # fmt: skip
def test_what_does_not_train_stays_bit_for_bit(network, changes, variables):
    """And the rest moves; with the heads alone batch norm keeps its statistics too."""
    own, rule = variables[network], settings(steps=3, **MODERN | changes)
    plan = Schedule("3 steps", 3, ())
    used = tuning.with_drop_path(network, rule.drop_path)
    assert used is network or used.drop_path == 0.2
    kept = module.tune(used, own, pool(), lambda *_: 0.5, rule, 0.01, plan, "feat", 3, (0, 0))
    params = {"backbone": own["params"], "head": kept.head}
    moving = trained(params, rule.trains, 1)["backbone"]
    for (path, before), after, on in zip(
        jax.tree.leaves_with_path(own["params"]), jax.tree.leaves(kept.variables["params"]), jax.tree.leaves(moving),
        strict=True,
    ):  # fmt: skip
        assert np.array_equal(before, after) != on or not np.any(before - after), path
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), own, kept.variables)
    assert any(jax.tree.leaves(changed["params"])) == (rule.trains != "heads")
    if network is RESNET:
        assert any(jax.tree.leaves(changed["batch_stats"])) == (rule.trains != "heads")


def test_the_head_begins_as_the_regression(variables):
    """On few images of a separable set it is right at once, where a random head with so small a rate is not."""
    quick = MODERN | {"learning_rates": (1e-7,), "steps": 1, "start": "linear"}
    given = VIT, VIT.apply, variables[VIT], [pool()], opened(1), opened(2)
    ((_, found),) = finetune(*given, settings=settings(**quick), **OPTIONS).items()
    ((_, other),) = finetune(*given, settings=settings(**quick | {"start": "random"}), **OPTIONS).items()
    assert found["value"] > 0.9 > other["value"] and found["protocol"]["start"] == "linear"
    strong = REGRESSION | {"l2_grid": (0.1,)}
    head = module.solved_head(VIT.apply, variables[VIT], pool(), "feat", 3, 0, strong, 7)
    again = module.solved_head(VIT.apply, variables[VIT], pool(), "feat", 3, 0, strong, 18)
    np.testing.assert_allclose(head["weight"], again["weight"], rtol=1e-2, atol=1e-2)


def test_the_protocol_of_transformers_learns_and_is_told(variables):
    given = VIT, VIT.apply, variables[VIT], [pool()], opened(1), opened(2)
    ((_, found),) = finetune(*given, settings=settings(**MODERN | {"learning_rates": (0.01,)}), **OPTIONS).items()
    told = json.loads(json.dumps(found["protocol"]))
    assert found["value"] > 0.6 and told["schedules"] == {"40 steps": {"steps": 40, "drops": []}}
    for name, value in MODERN.items():
        assert name == "learning_rates" or told[name] == value


def test_shares_and_words_that_mean_nothing_are_refused():
    for changes, said in (
        (dict(shares=(0.0,)), "shares of every class"),
        (dict(shares=(1.5,)), "shares of every class"),
        (dict(optimiser="lion"), "evals.finetune.optimiser"),
        (dict(trains="some"), "evals.finetune.trains"),
        (dict(layer_decay=0.0), "layer_decay"),
        (dict(warmup=1.0), "warmup"),
        (dict(weight_decay=-0.1), "weight_decay"),
    ):
        with pytest.raises(UserError, match=said):
            module.check(settings(**changes), 3)
    for changes in (dict(shares=(0.1,)), dict(start="linear")):
        with pytest.raises(UserError, match="several labels"):
            module.check(settings(**changes), 0)
    module.check(settings(labels=(), optimiser="lion"), 3)
    module.check(settings(labels=(), shares=(0.01, 1.0)), 3)
