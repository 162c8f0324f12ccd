"""Does it learn at all? Seconds of a small network on the embedded photographs; the slow tests ask for more."""

import jax
import pytest

from gssl_jax.runs.evaluation import Judge
from gssl_jax.runs.images import Images, shape_batch
from gssl_jax.runs.parts import assemble, stage_config
from gssl_jax.runs.stage import fresh_state, state_places, step_maker
from gssl_jax.training.mesh import put_batch
from tests.runs.recipes import recipe

SMALL = {
    "backbone.patch": 8,
    "backbone.width": 64,
    "backbone.depth": 1,
    "backbone.heads": 2,
    "method.views.locals": 2,
    "method.projector.hidden": 128,
    "method.projector.output": 64,
    "data.streams.train.size": 1024,
    "optim.duration": 120.0,
    "evals.lowshot.shots": (),
}
ONE_DEVICE = 1


@pytest.mark.parametrize(("name", "preset"), [("maskcluster_vit", "photos"), ("objectives", "photos,method=simclr")])
def test_some_steps_beat_the_untrained_backbone(name, preset, monkeypatch):
    from gssl_jax.runs import parts as assembling
    from gssl_jax.training.mesh import make_mesh

    monkeypatch.setattr(assembling, "make_mesh", lambda fsdp: make_mesh(ONE_DEVICE, fsdp))
    config = stage_config(recipe(preset, name), "target")
    config.update_from_flattened_dict({key: value for key, value in SMALL.items() if has(config, key)})
    parts = assemble(config)
    images, judge = Images.load(parts), Judge(parts, 0)
    batch = put_batch(shape_batch(parts), parts.mesh)
    places = state_places(parts, images)
    state = jax.jit(fresh_state(parts, images), out_shardings=places)(batch, jax.random.key(0))

    def accuracy(state):
        held = parts.method.backbone(state.params, state.method_state, "teacher")
        return judge.score(judge.frozen(held), ("knn",))["knn/top1"]

    before, step = accuracy(state), step_maker(parts, places)(1)
    with images.batches(0) as batches:
        for _ in range(120):
            state, _ = step(state, images.resident, put_batch(next(batches), parts.mesh))
    after = accuracy(state)
    assert after["value"] > before["value"] + 0.02, (before["value"], after["value"])


def has(config, key):
    """Whether a recipe has a knob."""
    for name in key.split("."):
        if name not in config:
            return False
        config = config[name]
    return True
