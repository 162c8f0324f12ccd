"""Runs with chains of stages side by side: what differs, what led to each, and areas under curves."""

import json

import pytest

from gssl_jax.report.compared import read_compared, settings
from gssl_jax.report.comparison import write_comparison
from tests.report.conftest import entry
from tests.report.page import Page


@pytest.fixture
def make_arm(tmp_path, config, make_results):
    """make_arm(name, stages, scores, seed=0, **optim of the stage `target`): the folder of a run with this chain of the
    stages base, source and target."""

    def make(name, stages, scores=None, seed=0, data="birds", **optim):
        folder = tmp_path / name
        folder.mkdir()
        known = {"base": {}, "source": {"optim": {"batch_size": 64}}, "target": {"optim": optim}}
        settings = config | {"stages": stages, "stage": known, "seed": seed, "arms": {name: stages}}
        results = make_results(scores or {"knn/top1": 0.5})
        lines = [{"stage": one, "data": data, "steps": 50, "parent": None} for one in stages]
        for file, content in (("config", settings), ("results", results), ("lineage", {"stages": lines})):
            (folder / f"{file}.json").write_text(json.dumps(content))
        return folder

    return make


@pytest.fixture
def compared(tmp_path):
    """compared(*folders) -> the parsed page and the verdict."""

    def write(*folders):
        path, judged = write_comparison([read_compared(one.name, one) for one in folders], tmp_path / "out")
        return Page(path.read_text()), judged

    return write


def read(*folders):
    return settings([read_compared(one.name, one) for one in folders])


def test_arms_differ_in_their_chain_alone(make_arm):
    """Neither in the stages that only one of them has nor in the list of all arms."""
    found = read(make_arm("a", ["base"]), make_arm("b", ["base", "source", "target"], learning_rate=0.5))
    assert found == [("stages", ("base", "base, source, target"))]


def test_a_stage_is_compared_by_what_holds_there(make_arm):
    """The base group says 0.003: `b` changes it in the stage, `c` says the same once more, `d` has no such stage."""
    arms = [make_arm("a", ["target"]), make_arm("b", ["target"], learning_rate=0.5),
            make_arm("c", ["target"], learning_rate=0.003), make_arm("d", ["base"], learning_rate=0.7)]  # fmt: skip
    values = ("0.003", "0.5", "0.003", "–")
    assert read(*arms) == [("stages", ("target", "target", "target", "base")),
                           ("stage.target.optim.learning_rate", values)]  # fmt: skip
    assert read(arms[0], arms[2]) == []


def test_seven_arms_with_their_chains_and_stages(make_arm, compared):
    """The first has 50 %, each of the others two points more."""
    chains = [["base"], ["target"], ["base", "target"], ["base", "source"], ["base", "source", "target"]]
    arms = [make_arm(f"arm_{k}", chains[k % 5], {"knn/top1": 0.5 + k / 50}) for k in range(7)]
    page, judged = compared(*arms)
    assert judged.headline.startswith("By nearest neighbours (k-NN), arm_6 reaches 62.0 %, 12.0 points above arm_0")
    assert page.ids("section")[:4] == ["verdict", "table", "chains", "settings"]
    assert "The runs differ in one setting: the chain of stages." in page.said
    assert "arm_4 random weights → base → source → target" in page.said
    assert page.said.count("MaskCluster birds 50 steps") == 3  # each stage once
    assert "nothing but the chain of stages differs" in page.said


def test_single_stages_from_the_same_beginning_have_no_chains_to_show(make_arm, compared):
    page, _ = compared(make_arm("a", ["target"]), make_arm("b", ["target"], seed=1))
    assert "chains" not in page.ids("section") and "The runs differ in one setting: seed." in page.said


def test_areas_have_a_table_of_their_own(make_arm, compared):
    one, two = (make_arm(name, ["target"], {"knn/auroc": value}) for name, value in (("a", 0.7), ("b", 0.8)))
    page, judged = compared(one, two)
    assert judged.headline == "In mean AUROC by nearest neighbours (k-NN), b reaches 80.0, 10.0 points above a."
    assert (judged.measure, judged.guess) == ("Mean AUROC on test images, k-NN", 0.5)
    assert "b 80.0 (95 % interval 78.0 to 82.0) against a 70.0 (" in page.said
    assert "50 is guessing" in page.said and "Accuracy on test images in per cent of" not in page.said
    results = json.loads((one / "results.json").read_text())
    results["eval"]["linear/top1"] = entry(0.5, 0.02)
    (one / "results.json").write_text(json.dumps(results))
    page, _ = compared(one, two)
    assert page.said.index("linear 50.0") < page.said.index("50 is guessing") < page.said.index("k-NN 70.0")
