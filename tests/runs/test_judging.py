"""Evaluators by name, what is kept of them, and how backbones are set against each other."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from gssl_jax.errors import UserError
from gssl_jax.evals.intervals import entry
from gssl_jax.protocols import evaluation, judged_images
from gssl_jax.runs import candidates as sources
from gssl_jax.runs import judging
from gssl_jax.runs.candidates import Asked, gathered
from gssl_jax.runs.done import Done
from gssl_jax.runs.judging import EVALUATORS, Evaluator, Subject, beside, chosen, decided_by, judged, opened
from tests.interop.transformer import blank
from tests.tiny import filled

QUIET = Console(quiet=True)


SMALL = dict(patch=4, width=16, depth=1, heads=2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """`vit_micro4` is smaller here, and its weights compile nothing."""
    monkeypatch.setattr(sources, "VITS", {"vit_micro4": SMALL})
    monkeypatch.setattr(sources, "fresh", lambda backbone, seed: filled(blank(backbone), seed))


def settings(**changes):
    found = evaluation("digits", "", "train", "test", 0)
    found.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return found


def candidates(specs=("random", "pixels"), **changes):
    """An untrained micro ViT and pixels before digits of 8 pixels."""
    base = ConfigDict({"data": judged_images(), "seed": 0})
    base.evals = settings(**{"lowshot__draws": 2, "lowshot__shots": (1,), "bootstrap__resamples": 10} | changes)
    asked = Asked(size=8, channels=1, architecture="vit_micro4")
    return gathered({spec: spec for spec in specs}, base, asked, 0)


def test_what_is_not_asked_for_is_off():
    found = chosen(["knn"], settings(sgd_linear__steps=3, finetune__labels=(10,)))
    assert (found.lowshot.shots, found.sgd_linear.steps, found.finetune.labels) == ((), 0, ())
    assert chosen(["lowshot", "sgd_linear"], settings(sgd_linear__steps=3)).sgd_linear.steps == 3
    assert chosen(["knn"], settings(segmentation__decoder__steps=3)).segmentation.decoder.steps == 0
    assert chosen(["segmentation"], settings(segmentation__decoder__steps=3)).segmentation.decoder.steps == 3
    with pytest.raises(UserError, match=r"--evals=finetune is off by its settings: give --evals.finetune.labels"):
        chosen(["knn", "finetune"], settings())
    with pytest.raises(UserError, match="unknown evaluator 'lowshots'; did you mean 'lowshot'"):
        chosen(["lowshots"], settings())


def test_every_evaluator_is_a_group_of_the_protocols():
    assert set(EVALUATORS) <= set(settings()) and all(set(one.groups) <= set(settings()) for one in EVALUATORS.values())


def key(one, name):
    subject = Subject(one, opened(one, ("knn", "linear", "lowshot")), 0)
    return decided_by(subject, name, chosen([name], one.config.evals), 0)


def test_what_decides_an_evaluator():
    """Its own knobs, those of the images, and what all share; not the knobs of another evaluator, nor of pictures."""
    plain = candidates(["random"])[0]
    for change, moved in (({"linear__tolerance": 0.1}, "linear"), ({"lowshot__l2": 0.1}, "lowshot"),
                          ({"bootstrap__resamples": 11}, "knn linear lowshot"), ({"tsne_points": 5}, ""),
                          ({"batch_size": 7}, "knn linear lowshot"), ({"every": 1.0}, "")):  # fmt: skip
        other = plain._replace(config=plain.config.copy_and_resolve_references())
        other.config.evals.update_from_flattened_dict({k.replace("__", "."): value for k, value in change.items()})
        found = [name for name in ("knn", "linear", "lowshot") if key(plain, name) != key(other, name)]
        assert found == moved.split(), change
    assert key(plain._replace(digest="other"), "knn") != key(plain, "knn")


def test_files_beside_the_images_decide_too(tmp_path):
    """Another list under the same name, other images in the folder of a shifted data set: judged again."""
    names, folder = tmp_path / "mine.txt", tmp_path / "shifted"
    one = candidates(["random"], lowshot__lists=(str(names),), robustness__shift=(("folder", str(folder), "test"),))[0]
    found = []
    for number in range(2):
        names.write_text("\n".join(f"digits/train[{4 * i + number}]" for i in range(40)))
        for place in range(10 * (number + 1)):
            file = folder / str(place % 10) / f"{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), np.full((8, 8), place, np.uint8))
        subject = Subject(one, opened(one, ("knn",)), 0)
        evals = one.config.evals
        found.append({name: beside(name, evals, subject.bench) for name in ("lowshot", "robustness", "knn")})
    assert found[0]["knn"] == found[1]["knn"] == {}
    assert set(found[0]["lowshot"]) == {str(names)} and found[0]["lowshot"] != found[1]["lowshot"]
    assert set(found[0]["robustness"]) == {"shifted"} and found[0]["robustness"] != found[1]["robustness"]


def test_entries_come_back_with_their_samples(tmp_path):
    done = Done(tmp_path / "deep" / "done")
    found = {"knn/top1": entry(0.5, 0.1, 0.9, 2, {"k": 3}, "bootstrap-test", samples=np.array([1, 0])),
             "a/auroc": entry(0.7, None, None, 2, {}, None)}  # fmt: skip
    assert done.read({"a": 1}) is None
    done.write({"a": 1}, found)
    again = done.read({"a": 1})
    assert again == found and done.read({"a": 2}) is None
    np.testing.assert_array_equal(again["knn/top1"].samples, [1.0, 0.0])
    assert again["a/auroc"].samples is None
    done.path({"a": 1}).with_suffix(".json").unlink()  # killed between the two files
    assert done.read({"a": 1}) is None


def test_what_was_interrupted_goes_on_where_it_was(tmp_path, monkeypatch):
    calls = []

    def counted(name, fails=()):
        def run(subject, settings):
            calls.append((subject.candidate.name, name))
            if (subject.candidate.name, name) in fails:
                raise KeyboardInterrupt
            samples = np.array([1.0, 0.0, 1.0]) if subject.candidate.variables is None else np.ones(3)
            return {f"{name}/top1": entry(samples.mean(), 0, 1, 3, {}, "bootstrap-test", samples=samples)}

        return run

    monkeypatch.setattr(judging, "draw", lambda *_: None)

    def table(fails):
        return {"knn": Evaluator(counted("knn", fails)), "linear": Evaluator(counted("linear", fails), pixels=False)}

    found = candidates()
    monkeypatch.setattr(judging, "EVALUATORS", table([("random", "linear")]))
    with pytest.raises(KeyboardInterrupt):
        judged(found, ["linear", "knn"], tmp_path, 0, QUIET)
    monkeypatch.setattr(judging, "EVALUATORS", table([]))
    results = judged(found, ["knn", "linear"], tmp_path, 0, QUIET)
    assert calls == [("random", "knn"), ("random", "linear"), ("random", "linear"), ("pixels", "knn")]
    assert set(results["eval"]) == {"knn/top1", "linear/top1"} and set(results["controls"]["pixels"]) == {"knn/top1"}
    assert results["differences"]["pixels"]["knn/top1"]["value"] == pytest.approx(1 / 3)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["run"]["backbones"]["random"]["network"].startswith("ViT, patch 4, width 16")


def test_without_labels_there_is_health_and_nothing_else(tmp_path):
    for k in range(8):
        noise = np.random.default_rng(k).integers(0, 256, (8, 8), np.uint8)
        cv2.imwrite(str(tmp_path / f"{k}.png"), noise)
    base = ConfigDict({"data": judged_images(), "seed": 0, "evals": settings(health__views=2)})
    base.evals.data.update(dict(source="folder", path=str(tmp_path)))
    found = gathered({"r": "random"}, base, Asked(size=8, channels=1, architecture="vit_micro4"), 0)
    with pytest.raises(UserError, match="has no labels: the evaluators knn, health need them"):
        judged(found, ["knn", "health"], tmp_path / "out", 0, QUIET)
    results = judged(found, ["health"], tmp_path / "out", 0, QUIET)
    assert results["eval"] == {} and set(results["health"]["r"]) >= {"rankme", "alignment", "uniformity"}
    assert 1 <= results["health"]["r"]["rankme"] <= 8 and results["health"]["protocol"]["images"] == 8
    assert judged(found, ["health"], tmp_path / "out", 0, QUIET)["health"] == results["health"]


def test_protocols_that_train_are_run_one_at_a_time(tmp_path):
    """`sgd_linear` alone, then with fine-tuning: the first is not run again."""
    quick = dict(sgd_linear__steps=1, sgd_linear__every=1, sgd_linear__batch_size=8, sgd_linear__seeds=1)
    quick |= dict(finetune__labels=(10,), finetune__steps=1, finetune__batch_size=8, finetune__learning_rates=(0.01,))
    one = candidates(["random"], **quick)
    found = judged(one, ["sgd_linear"], tmp_path, 0, QUIET)
    assert list(found["eval"]) == ["linear_sgd/top1"]
    again = judged(one, ["sgd_linear", "finetune"], tmp_path, 0, QUIET)
    assert list(again["eval"]) == ["linear_sgd/top1", "finetune_10/top1"]
    assert len(list((tmp_path / "done").glob("*.json"))) == 2
