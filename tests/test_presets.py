"""How `:preset,key=value` is read, and ViTs by name in recipes that were written for a ResNet."""

from __future__ import annotations

import pytest
from ml_collections import ConfigDict

from gssl_jax import presets
from gssl_jax.errors import UserError
from tests.runs.recipes import CONFIGS, STUDIES, recipe


def first(c):
    c.name = "first"


def folder(c, path, size=32, kind="flat"):
    c.update(dict(name="folder", path=path, size=size, kind=kind))


def chosen(argument):
    blank = dict(name="", path="", size=0, kind="")
    return presets.choose(argument, {"first": first, "folder": folder}, lambda: ConfigDict(blank)).to_dict()


def test_options_are_the_parameters_of_the_preset():
    assert chosen(None)["name"] == chosen("")["name"] == chosen("first")["name"] == "first"
    assert chosen("folder,path=a/b=c") == dict(name="folder", path="a/b=c", size=32, kind="flat")
    assert chosen("folder,size=64,path=x,kind=7") == dict(name="folder", path="x", size=64, kind="7")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("frist", "unknown preset 'frist'; did you mean 'first'"),
        ("first,size=3", "preset 'first' has no option 'size'; it knows none"),
        ("folder,path=x,sise=3", "has no option 'sise'; known: path, size, kind"),
        ("folder,path", "'path' is not of the form key=value"),
        ("folder,path=x,size=big", "size=big: give a whole number, e.g. size=32"),
        ("folder,size=3", "preset 'folder' needs path: write :folder,path=VALUE"),
        ("folder,path=", "preset 'folder' needs path"),
    ],
)
def test_what_cannot_be_read_is_refused(argument, words):
    with pytest.raises(UserError, match=words):
        chosen(argument)


@pytest.mark.parametrize("name", ["gated_cifar_lt", "gated_adversarial", "gated_semi", "gated_tinyimagenet"])
def test_a_transformer_brings_its_optimiser(name):
    c, plain = recipe("photos,backbone=vit_micro4", name), recipe("photos", name)
    assert (c.backbone.kind, c.backbone.patch, c.backbone.width, c.backbone.depth) == ("vit", 4, 192, 4)
    assert (c.optim.name, c.optim.weight_decay, c.optim.decay_vectors) == ("adamw", 0.05, False)
    assert c.optim.duration == plain.optim.duration and c.method == plain.method and c.data == plain.data
    assert recipe("photos,backbone=wrn_28_2", name).backbone.name == "wrn_28_2"
    with pytest.raises(UserError, match="unknown backbone 'vit_ti5'; did you mean 'vit_ti"):
        recipe("photos,backbone=vit_ti5", name)


@pytest.mark.parametrize("name", sorted({path.stem for path in CONFIGS.glob("*.py")} - {*STUDIES}))
def test_protocols_that_train_are_off_in_every_recipe_and_those_of_the_paper_when_on(name):
    """HPT's constants (specification 3.4 and 3.5)."""
    e = recipe("tiny", name).evals
    assert (e.statistics, e.sgd_linear.steps, e.finetune.labels) == ("own", 0, ())
    sgd = (e.sgd_linear.batch_size, e.sgd_linear.learning_rate, e.sgd_linear.momentum, e.sgd_linear.milestones)
    assert sgd == (512, 30.0, 0.9, (1651, 3333)) and (e.sgd_linear.every, e.sgd_linear.seeds) == (100, 3)
    tuning = (e.finetune.learning_rates, e.finetune.steps, e.finetune.milestones, e.finetune.epoch_milestones)
    assert tuning == ((0.01, 0.001), 2500, (833, 1667), (30, 60))
    assert (e.finetune.head_rate, e.finetune.batch_size, e.finetune.drops) == (100.0, 256, "intended")
    assert e.sgd_linear.scale == e.finetune.scale == (0.08, 1.0) and e.sgd_linear.flip == e.finetune.flip == 0.5


def test_a_preset_by_method_has_its_own_options_and_the_method():
    def loud(c):
        c.name = c.name.upper()

    methods = {"quiet": lambda c: None, "loud": loud}
    held = {"by": presets.by_method(folder, methods, default="quiet")}

    def given(argument):
        return presets.choose(argument, held, lambda: ConfigDict(dict(name="", path="", size=0, kind=""))).to_dict()

    assert given("by,path=here,size=64") == dict(name="folder", path="here", size=64, kind="flat")
    assert given("by,path=here,method=loud") == dict(name="FOLDER", path="here", size=32, kind="flat")
    with pytest.raises(UserError, match="needs path"):
        given("by,method=loud")
    with pytest.raises(UserError, match="known: path, size, kind, method"):
        given("by,path=here,sizes=3")
    with pytest.raises(UserError, match="method 'loudly'.*loud"):
        given("by,path=here,method=loudly")
