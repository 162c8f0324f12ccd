"""What no gradient of MaskCluster may reach, what must stay hidden, and golden numbers, on whole small networks."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.ops.masking import expand
from tests.tiny import QUICK, filled, noise, tiny_method

STEP, UNIT = 40, 2  # the 20th of 29 intervals of the teacher's temperature
BATCH, SIDE, CELLS = 4, 12, 3

NETWORKS = {
    "noise": dict(method__collapse__patch="centring"),
    "token": dict(method__corruption__kind="token", method__loss__patch_tokens="masked", method__views__locals=1,
                  method__collapse__cls="memax", method__sinkhorn__positionwise=True, method__projector__shared=True,
                  method__projector__norm="batch"),
    "drop": dict(method__corruption__kind="drop", method__loss__reconstruction=0.0, method__views__globals=1,
                 method__loss__same_view=True, method__collapse__cls="centring", method__collapse__patch="memax"),
}  # fmt: skip


class Network:
    """One variant with parameters and views from formulas; `parts` differentiates any mixture of its metrics."""

    def __init__(self, kind):
        self.method = tiny_method(unit=UNIT, **NETWORKS[kind])
        self.own, settings = self.method.loss.__self__, self.method.loss.__self__.settings
        globals_ = settings.views.globals
        shape = (BATCH, globals_, SIDE, SIDE, 1)
        clean = 0.5 + noise(shape, 900, 0.5)
        cells = jnp.asarray(np.arange(BATCH * globals_ * 9).reshape(BATCH, globals_, 9) * 5 % 9 < 4)  # 4 of 9 hidden
        mask = expand(cells.reshape(BATCH, globals_, CELLS, CELLS), 4)
        spoilt = jnp.where(mask[..., None], 0.5 + noise(shape, 901, 0.5), clean)
        self.views = {"clean": clean, "student": spoilt if kind == "noise" else clean, "mask": mask}
        if kind == "drop":
            self.views["keep"] = jnp.sort(jax.lax.top_k((~cells).astype(jnp.int32), 5)[1], axis=-1)
        if settings.views.locals:
            self.views["local"] = 0.5 + noise((BATCH, 1, 8, 8, 1), 902, 0.5)
        self.params, state = jax.eval_shape(self.method.init, jax.random.key(0), self.views)
        self.params, self.state = (
            filled(self.params, 0),
            {
                "teacher": filled(state["teacher"], 300),
                "centre": {level: noise(c.shape, 903, 0.1) for level, c in state["centre"].items()},
            },
        )
        self._compiled = jax.jit(jax.grad(self._mixture, argnums=(0, 1, 2), has_aux=True), compiler_options=QUICK)

    def _mixture(self, params, state, floats, views, weights):
        loss, (after, metrics) = self.method.loss(
            params, state, {**views, **floats}, jax.random.key(0), jnp.int32(STEP), True
        )
        mixed = sum(weights[name] * value for name, value in metrics.items() if name in weights)
        return mixed, (loss, after, metrics)

    def parts(self, *names, params=None, views=None):
        """({params, state, views: gradients of the sum of the named metrics}, metrics)."""
        views = {**self.views, **(views or {})}
        floats = {k: v for k, v in views.items() if k in ("clean", "student", "local")}
        known = [
            f"train/{n}" for n in ("loss", "loss_cls", "loss_patch", "loss_reconstruction", "memax_cls", "memax_patch")
        ]
        weights = {name: jnp.float32(name in names) for name in known}
        gradients, (_, _, metrics) = self._compiled(params or self.params, self.state, floats, views, weights)
        return dict(zip(("params", "state", "views"), gradients, strict=True)), metrics


network = functools.cache(Network)


def size(tree):
    """The largest absolute entry of a tree."""
    return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))


LOSSES = ("train/loss_cls", "train/loss_patch", "train/loss_reconstruction")


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_gradient_reaches_the_teacher_its_views_or_the_centres(kind):
    net = network(kind)
    for name in ("train/loss", *LOSSES[:2]):
        gradients, _ = net.parts(name)
        assert size(gradients["state"]) == 0.0, name
        assert size(gradients["params"]["backbone"]) > 1e-4, name
    for name in LOSSES[:2]:  # the clean view is the teacher's alone; the student learns from its own
        gradients, _ = net.parts(name)
        assert size(gradients["views"]["clean"]) == 0.0
        assert size(gradients["views"]["student"]) > 1e-5


def test_nothing_differentiable_leaves_the_teacher():
    """Apart from the targets, whose own gradient is stopped a second time."""
    net = network("noise")

    def total(teacher, clean):
        return sum(jnp.sum(c) for c in net.own.teacher(teacher, {**net.views, "clean": clean}).values())

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)), compiler_options=QUICK)(
        net.state["teacher"], net.views["clean"]
    )
    assert size(gradients) == 0.0


def test_the_teacher_does_see_the_clean_view():
    net = network("noise")
    moved = net.parts(views={"clean": net.views["clean"][:, :, ::-1]})[1]
    for name in LOSSES:
        assert abs(float(moved[name]) - float(net.parts()[1][name])) > 1e-4, name


@pytest.mark.parametrize("kind", ["noise", "token"])
def test_reconstruction_learns_hidden_pixels_only_and_moves_no_prototype(kind):
    net = network(kind)
    gradients, _ = net.parts("train/loss_reconstruction")
    hidden = np.asarray(net.views["mask"])[..., None]
    np.testing.assert_array_equal(np.asarray(gradients["views"]["clean"]) != 0, hidden)
    assert size(gradients["params"]["prototypes"]) == 0.0 and size(gradients["params"]["projector"]) == 0.0
    assert size(gradients["params"]["heads"]["reconstruction"]) > 1e-4


@pytest.mark.parametrize("kind", ["noise", "token"])
def test_clustering_moves_no_reconstruction_head_and_each_level_its_own_prototypes(kind):
    net = network(kind)
    for level, other in (("cls", "patch"), ("patch", "cls")):
        gradients, _ = net.parts(f"train/loss_{level}")
        assert size(gradients["params"]["heads"]["reconstruction"]) == 0.0
        assert size(gradients["params"]["prototypes"][other]) == 0.0
        assert size(gradients["params"]["prototypes"][level]) > 1e-4


@pytest.mark.parametrize("kind", ["token", "drop"])
def test_hidden_pixels_give_the_student_nothing(kind):
    """The student's view holds the hidden content here; the network has to keep it out."""
    net = network(kind)
    gradients, before = net.parts("train/loss")
    hidden = np.asarray(net.views["mask"])[..., None]
    reached = np.asarray(gradients["views"]["student"]) != 0
    assert not (reached & hidden).any() and reached[~hidden].mean() > 0.99
    other = jnp.where(net.views["mask"][..., None], 0.123, net.views["student"])
    after = net.parts("train/loss", views={"student": other})[1]
    for name, value in before.items():
        assert float(after[name]) == float(value), name


def test_the_mask_token_learns():
    gradients, _ = network("token").parts("train/loss_patch")
    assert size(gradients["params"]["heads"]["mask_token"]) > 1e-5
    assert "heads" not in network("drop").params


def test_local_views_serve_the_class_loss_only():
    net = network("token")
    assert size(net.parts("train/loss_cls")[0]["views"]["local"]) > 1e-5
    for name in ("train/loss_patch", "train/loss_reconstruction"):
        assert size(net.parts(name)[0]["views"]["local"]) == 0.0


def test_a_constant_network_gets_uniform_targets_from_sinkhorn():
    net = network("noise")
    flat = jax.tree_util.tree_map_with_path(
        lambda p, x: 0 * x if p[0].key == "backbone" and p[1].key == "norm" and p[2].key == "scale" else x,
        net.state["teacher"],
    )
    before, net.state = net.state, {**net.state, "teacher": flat}
    metrics = net.parts()[1]
    net.state = before
    assert float(metrics["health/target_entropy_cls"]) == pytest.approx(1.0, abs=1e-5)
    assert float(metrics["train/loss_cls"]) >= np.log(6)
    assert float(net.parts()[1]["health/target_entropy_cls"]) < 0.99


GOLDEN = {
    "noise": {
        "backbone": 12.11064, "projector": 10.23519, "prototypes": 4.836923, "heads": 1.611814, "train/loss": 14.11842,
        "train/loss_cls": 7.000795, "train/loss_patch": 4.064859, "train/loss_reconstruction": 3.052767,
    },
    "token": {
        "backbone": 9.416063, "projector": 3.382261, "prototypes": 2.713165, "heads": 1.777153, "train/loss": 10.18779,
        "train/loss_cls": 2.579502, "train/loss_patch": 4.950105, "train/loss_reconstruction": 2.362862,
        "train/memax_cls": 0.2953192,
    },
    "drop": {
        "backbone": 15.04007, "projector": 14.72765, "prototypes": 8.078328, "train/loss": 14.78931,
        "train/loss_cls": 6.347577, "train/loss_patch": 7.668017, "train/memax_patch": 0.773713,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_golden_numbers_of_one_step(kind):
    """Written down from a run on a CPU (jax 0.10.2); loss terms, and the gradient's length under each prefix."""
    net = network(kind)
    gradients, metrics = net.parts("train/loss")
    found = {name: float(value) for name, value in metrics.items() if name.startswith(("train/loss", "train/memax"))}
    for prefix, tree in gradients["params"].items():
        found[prefix] = float(np.sqrt(sum(np.sum(np.float64(x) ** 2) for x in jax.tree.leaves(tree))))
    assert found == pytest.approx(GOLDEN[kind], rel=1e-4)
