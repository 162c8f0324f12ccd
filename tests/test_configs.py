"""Every recipe and preset: one whole training step by shapes alone, without compute or data."""

import jax
import jax.numpy as jnp
import pytest

from gssl_jax import presets
from gssl_jax.runs import parts as assembling
from gssl_jax.runs import stage
from gssl_jax.runs.parts import assemble, stage_config
from gssl_jax.training.mesh import make_mesh
from gssl_jax.training.state import create_state
from gssl_jax.training.step import gather, transition
from tests.runs.recipes import CONFIGS, STUDIES, module, recipe

PRESETS = {
    "maskcluster_vit": [
        "photos",
        "photos_rgb",
        "tiny",
        "cifar10",
        "imagenet",
        "imagenet,backbone=vit_b16",
        "folder,path=somewhere",
        "folder,path=somewhere,size=224,backbone=vit_s16",
    ],
    "objectives": [
        "photos",
        "tiny",
        "imagenet,backbone=vit_b16",
        "folder,path=somewhere,method=maskcluster",
        "photos_rgb,method=swav",
        "cifar10,method=mae",
        *(
            f"{preset},method={method}"
            for method in "simclr moco_v3 dino swav msn mae simmim ibot supervised".split()
            for preset in ("photos", "imagenet")
        ),
    ],
    "gated_cifar_lt": ["cifar10", "cifar100", "photos", "tiny", "folder,path=somewhere,size=48"],
    "gated_adversarial": ["cifar10", "cifar100", "photos", "tiny"],
    "gated_tinyimagenet": [
        "tinyimagenet,path=somewhere",
        "tinyimagenet,tfds=somewhere",
        "earlier,path=somewhere",
        "photos",
        "tiny",
    ],
    "gated_semi": [
        "cifar10",
        "cifar10,labels=40",
        "fixmatch,labels=250",
        "plain",
        "photos",
        "tiny",
        "folder,path=somewhere,labels=50,size=48",
        "folder,path=somewhere",
    ],
    "hpt_moco": [
        "imagenet",
        "imagenet,steps=50,method=byol",
        "cifar10",
        "cifar10,method=byol",
        "photos",
        "photos,backbone=vit_micro4",
        "photos,method=byol,backbone=vit_micro4",
        "earth",
        "earth,steps=50,augment=crop,percent=10,method=byol",
        "dataset,target=resisc,path=somewhere",
        "dataset,target=flowers,kind=tfds,weights=file,steps=50",
        "dataset,target=ucmerced,path=somewhere,source=resisc,source_path=elsewhere,percent=10,augment=crop",
        "tiny",
        "folder,path=somewhere",
        "folder,path=somewhere,size=224,backbone=resnet50,steps=5000",
        "folder,path=somewhere,source=elsewhere",
        "folder,path=somewhere,weights=file",
    ],
    "hpt_maskcluster": [
        "earth",
        "earth,steps=50,percent=10",
        "tiny",
        "folder,path=somewhere,source=elsewhere",
        "folder,path=somewhere,weights=file,size=224,backbone=vit_s16",
    ],
}
"""Recipe -> its presets."""


class Stand:
    """In the place of a source whose files are not here."""

    name, parts, normalised, multilabel = "stand-in", (), False, False

    def __init__(self, settings):
        self.classes = tuple(f"class {i}" for i in range(19 if settings.source == "photos" else 10))

    def __len__(self):
        return 100_000

    def label(self, index):
        return index % len(self.classes)

    def fingerprint(self):
        return "0"


@pytest.fixture
def assembled(monkeypatch):
    """(recipe, preset) -> the parts of its stage on one device, without any file."""
    one = make_mesh(1)  # a batch of 100, as Tiny-ImageNet has it, does not divide among eight
    monkeypatch.setattr(assembling, "open_source", lambda settings, *_: Stand(settings))
    monkeypatch.setattr(assembling, "make_mesh", lambda fsdp: one)
    return lambda name, preset: assemble(stage_config(recipe(preset, name), "target"))


def inputs(parts):
    """(resident images by stream, one batch by stream), as shapes."""
    data = parts.config.data
    side, resident = data.canvas if parts.crop == "device" else data.image_size, {}
    for name in parts.streams:
        resident[name] = {"image": jax.ShapeDtypeStruct((16, side, side, data.channels), jnp.uint8)}
        if parts.labelled(name):
            resident[name]["label"] = jax.ShapeDtypeStruct((16,), jnp.int32)
    return resident, stage.shape_batch(parts)


def views_of(parts, resident, batch):
    key = jax.random.key(0)
    return jax.eval_shape(lambda r, b, k: parts.method.views(gather(r, b), k, jnp.int32(0)), resident, batch, key)


@pytest.mark.parametrize(("name", "preset"), [(name, preset) for name, found in PRESETS.items() for preset in found])
def test_a_step_of_every_preset_has_its_shapes(name, preset, assembled):
    parts = assembled(name, preset)
    resident, batch = inputs(parts)

    def whole(resident, batch, key):
        batches = gather(resident, batch)
        return transition(
            parts.method, parts.optimiser, create_state(parts.method, parts.optimiser, batches, key), batches
        )

    state, metrics, finite = jax.eval_shape(whole, resident, batch, jax.random.key(0))
    assert metrics["train/loss"].shape == () and finite.dtype == bool
    config, data = parts.config, parts.config.data
    shown, square = views_of(parts, resident, batch), (data.image_size, data.image_size, data.channels)
    if name in ("maskcluster_vit", "hpt_maskcluster", "objectives"):
        views = config.method.views
        if "prototypes" in config.method:
            assert state.params["prototypes"]["cls"]["directions"].shape[1] == config.method.prototypes.cls
        assert shown["clean"].shape == (config.optim.batch_size, views["globals"], *square)
        assert ("local" in shown) == (views["locals"] > 0)
        return
    if name == "hpt_moco":
        assert {shown[view].shape for view in ("view_1", "view_2")} == {(config.optim.batch_size, *square)}
        assert ("predictor" in state.params) == ("method=byol" in preset) == ("queue" not in state.method_state)
        assert set(state.params) - {"predictor"} == set(state.method_state["teacher"]) == {"backbone", "projector"}
        return
    assert set(state.params["heads"]) == {"classifier", *config.method.pretexts.names}
    if name == "gated_semi":
        assert shown["labelled"].shape == (config.optim.batch_size, *square)
        assert shown["weak"].shape == (config.optim.batch_size * data.streams.unlabelled.ratio, *square)
        assert ("strong" in shown) == (config.method.semi.consistency > 0)
        assert set(batch["unlabelled"]) <= {"index", "draw", "image"}  # and no label
    else:
        assert shown["image"].shape == (config.optim.batch_size, *square)
    logits = jax.eval_shape(
        parts.method.predict, state.params, state.method_state, jax.ShapeDtypeStruct((2, *square), jnp.float32)
    )
    assert logits.shape == (2, len(parts.train.classes))


def test_the_presets_tested_here_are_all_there_are():
    assert sorted((*PRESETS, *STUDIES)) == sorted(path.stem for path in CONFIGS.glob("*.py"))
    for name, found in PRESETS.items():
        assert {preset.partition(",")[0] for preset in found} == set(module(name).PRESETS), name


def test_the_gated_recipes_are_those_of_the_authors():
    """Specification 1.5 b to d."""
    c = recipe("cifar10", "gated_adversarial")
    assert (c.backbone.name, c.backbone.dropout, c.data.mean, c.data.std) == ("wrn_40_2", 0.0, (0.5,), (0.5,))
    assert (c.optim.duration, c.optim.batch_size, c.optim.learning_rate) == (200, 128, 0.1)
    assert (c.optim.schedule, c.optim.final_learning_rate, c.optim.nesterov) == ("cosine", 1e-6, True)
    assert (c.optim.weight_decay, c.method.loss.kind, c.method.heads.normed) == (5e-4, "ce", False)
    attack = {**c.method.attack}
    assert (attack["steps"], attack["epsilon"], attack["step_size"]) == (10, 8 / 255, 2 / 255)
    assert c.evals.attacks.to_dict() == {
        "pgd20": dict(epsilon=8 / 255, step_size=2 / 255, steps=20),
        "pgd100": dict(epsilon=8 / 255, step_size=0.3 / 255, steps=100),
    }
    c = recipe("tinyimagenet,path=x", "gated_tinyimagenet")
    assert (c.backbone.name, c.backbone.stem, c.data.image_size) == ("resnet18", "cifar", 64)
    optim = (c.optim.duration, c.optim.batch_size, c.optim.learning_rate, c.optim.weight_decay)
    assert optim == (400, 100, 0.2, 1e-4) and c.optim.schedule == "cosine_by_unit" and not c.optim.nesterov
    c = recipe("earlier,path=x", "gated_tinyimagenet")
    optim = (c.optim.duration, c.optim.batch_size, c.optim.learning_rate, c.optim.weight_decay)
    assert optim == (300, 256, 0.1, 2e-4)
    c = recipe("cifar10", "gated_semi")
    streams = c.data.streams
    assert (c.optim.batch_size, streams.unlabelled.ratio, streams.labelled.subset.count) == (64, 7, 4000)
    assert (c.optim.duration, c.optim.learning_rate, c.optim.schedule) == (2**20, 0.03, "fixmatch")
    assert (c.method.semi.threshold, c.method.semi.temperature, c.method.ema.momentum) == (0.95, 0.5, 0.999)
    assert not c.optim.decay_vectors and c.backbone.batch_norm_momentum == 0.999


@pytest.mark.parametrize(
    ("name", "preset", "words"),
    [
        ("gated_tinyimagenet", "", "needs a place.*path=DIR"),
        ("gated_tinyimagenet", "tinyimagenet,path=x,tfds=y", "needs a place"),
        ("gated_tinyimagenet", "photos,path=x", "no option 'path'"),
        ("gated_adversarial", "cifar", "unknown preset 'cifar'.*cifar100"),
        ("gated_adversarial", "tiny,labels=3", "no option 'labels'"),
        ("gated_semi", "cifar10,labels=few", "labels=few.*whole number"),
        ("gated_semi", "photos,labels=4", "no option 'labels'"),
        ("gated_semi", "folder", "needs path"),
        ("hpt_moco", "photos,method=moko", "unknown method 'moko'; did you mean 'moco'"),
        ("hpt_moco", "folder", "needs path"),
        ("hpt_moco", "earth,augment=crops", "unknown set of augmentations 'crops'; did you mean 'crop'"),
        ("hpt_maskcluster", "folder,path=somewhere", "nothing to start from: give source=DIR or weights=FILE"),
    ],
)
def test_a_preset_that_does_not_exist_is_refused(name, preset, words):
    with pytest.raises(ValueError, match=words):
        recipe(preset, name)


def test_hpts_recipe_is_that_of_the_specification():
    """Section 3.2."""
    c = recipe("imagenet", "hpt_moco")
    assert (c.backbone.name, c.data.image_size, c.optim.batch_size, c.optim.unit) == ("resnet50", 224, 256, "step")
    assert (c.optim.name, c.optim.learning_rate, c.optim.momentum, c.optim.weight_decay) == ("sgd", 0.03, 0.9, 1e-4)
    optim = (c.optim.schedule, c.optim.warmup, c.optim.final_learning_rate, c.optim.decay_vectors)
    assert optim == ("cosine", 0.0, 0.0, True) and c.optim.final_weight_decay == 1e-4 and not c.optim.reference_batch
    m = c.method
    assert (m.queue.length, m.temperature, m.momentum.start, m.momentum.end) == (65_536, 0.2, 0.999, 0.999)
    assert (m.projector.hidden, m.projector.output, m.symmetric) == (2048, 128, False)
    for view in m.augment.values():
        jitter = view.jitter
        strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        assert strengths == (0.4, 0.4, 0.4, 0.4) and (jitter.probability, view.grey, view.flip) == (0.8, 0.2, 0.5)
        assert (view.scale, view.blur.probability, view.blur.sigma) == ((0.2, 1.0), 0.5, (0.1, 2.0))
        assert view.solarise.probability == 0.0
    assert recipe("imagenet,steps=50", "hpt_moco").optim.duration == 50.0


def test_the_augmentation_sets_are_those_of_the_specification():
    """Section 3.7: the second leaves grey out, the third jitter but not grey."""
    on = {"baseline": "jitter grey blur flip", "no_grey": "jitter blur flip", "no_colour": "grey blur flip",
          "crop_blur": "blur", "crop": ""}  # fmt: skip
    assert list(presets.TRIALS) == list(on)
    for name, words in on.items():
        c = recipe(f"earth,augment={name}", "hpt_moco")
        for view in c.method.augment.values():
            found = dict(jitter=view.jitter.probability, grey=view.grey, blur=view.blur.probability, flip=view.flip)
            assert {key for key, value in found.items() if value} == set(words.split()), name
            assert view.scale == (0.3, 1.0)
        for view in assembling.stage_config(c, "source").method.augment.values():  # the target's alone
            assert view.jitter.probability and view.grey and view.blur.probability and view.flip


@pytest.mark.parametrize("name", ["hpt_moco", "hpt_maskcluster"])
def test_every_stage_of_every_arm_is_a_configuration(name, assembled):
    """HPT-BN trains the norms alone, a judged base nothing, and what begins a chain is the same in all that have it."""
    c = recipe("earth", name)
    own = {stage: assembling.stage_config(c, stage) for stage in c.stage}
    assert {s for arm in c.arms.values() for s in arm} | {"target"} == set(own)
    assert own["norm"].optim.trains == "norm" and own["target"].optim.trains == "all"
    assert own["judged"].optim.duration == 0.0 and c.stages == ("base", "source", "target")
    streams = {stage: (o.data.streams.train.source, o.data.streams.train.path) for stage, o in own.items()}
    assert streams["base"] == ("photos", "") and streams["source"] == ("earth", "bluemarble")
    assert {streams[s] for s in own if s not in ("base", "source")} == {("earth", "shaded")}
    assert {o.evals.data.path for o in own.values()} == {"shaded"}  # every chain is judged on the target
    assert (
        own["base"].method.augment != own["target"].method.augment and own["base"].data.mean != own["target"].data.mean
    )
    if name == "hpt_moco":
        assert own["refreshed"].evals.statistics == "refreshed" and own["judged"].evals.statistics == "own"
    else:
        assert "refreshed" not in own  # no batch statistics
    for one in own.values():
        assemble(one)


def test_a_data_set_of_the_paper_comes_with_its_stages_and_protocols(assembled):
    c = recipe("dataset,target=ucmerced,path=a,source=resisc,source_path=b,percent=10,augment=crop", "hpt_moco")
    own = {stage: assembling.stage_config(c, stage) for stage in c.stage}
    assert (own["base"].optim.duration, own["source"].optim.duration, own["target"].optim.duration) == (
        800 * 5004,
        50_000,
        5000,
    )
    assert own["base"].data.streams.train.path == "imagenet2012" and own["source"].data.streams.train.path == "b"
    assert {o.evals.data.path for o in own.values()} == {"a"} and own["target"].data.streams.train.share == 0.1
    assert own["target"].data.mean == (0.4842, 0.4901, 0.4505) and own["source"].data.mean == (0.368, 0.381, 0.3436)
    assert own["base"].data.streams.train.share == own["source"].data.streams.train.share == 1.0
    assert not own["target"].method.augment.view_1.flip and own["base"].method.augment.view_1.flip
    linear, tuned = own["target"].evals.sgd_linear, own["target"].evals.finetune
    assert (linear.steps, linear.learning_rate, linear.milestones, linear.seeds) == (5000, 30.0, (1651, 3333), 3)
    assert (tuned.labels, tuned.learning_rates, tuned.steps, tuned.epochs) == ((1000,), (0.01, 0.001), 2500, 90)
    c = recipe("dataset,target=flowers,kind=tfds,weights=file", "hpt_moco")
    assert c.arms.hpt == ("target",) and c.backbone.weights == "file"
    assert assembling.stage_config(c, c.arms.target[0]).backbone.weights == ""


def test_folders_in_a_chain_have_the_arms_that_mean_something():
    wanted = {"target", "base_source", "base_source_target"}
    for name in ("hpt_moco", "hpt_maskcluster"):
        c = recipe("folder,path=a,source=b", name)
        assert set(c.arms) == wanted and c.stages == ("source", "target") and c.arms.base_source == ("source", "judged")
        c = recipe("folder,path=a,weights=file", name)
        assert set(c.arms) == {"base", "target", "hpt", "hpt_bn"} | (
            {"base_refreshed"} if name == "hpt_moco" else set()
        )
        assert c.stages == ("target",) and assembling.stage_config(c, "scratch").backbone.weights == ""
    assert not recipe("folder,path=a", "hpt_moco").arms


def test_the_imagenet_preset_is_the_recipe_of_the_specification():
    config = recipe("imagenet")
    assert (config.backbone.patch, config.backbone.width, config.backbone.depth, config.backbone.heads) == (
        16,
        384,
        12,
        6,
    )
    assert (config.data.image_size, config.method.views["globals"], config.method.views["locals"]) == (224, 2, 10)
    assert (config.optim.batch_size, config.optim.duration, config.optim.unit, config.optim.warmup) == (
        1024,
        800,
        "epoch",
        10,
    )
    assert config.optim.learning_rate == 5e-4 and config.optim.clip_norm == 3.0
    assert (config.method.prototypes.cls, config.method.projector.hidden, config.method.projector.output) == (
        8192,
        2048,
        256,
    )
    assert recipe("imagenet,backbone=vit_b16").backbone.width == 768
