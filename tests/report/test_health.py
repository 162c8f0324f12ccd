"""Health in words: each alarm of specification 2.4 and each hint, with the knob it names."""

import pytest

from gssl_jax.report.health import findings
from gssl_jax.report.reading import Metrics, RunFiles


@pytest.fixture
def found(config, rows_of):
    """found(config changes by dotted path, rows) -> {title: finding}."""

    def run(rows=None, results=None, **metrics):
        rows = rows_of(**metrics) if rows is None else rows
        return {one.title: one for one in findings(RunFiles(config, results or {}, Metrics(tuple(rows))))}

    run.config = config
    return run


def test_a_healthy_run_is_in_order(found):
    all_ = found()
    assert {one.level for one in all_.values()} == {"good"}
    assert list(all_) == ["Class assignments", "Patch assignments", "Features"]
    assert "Entropy of one target: 40 % of its maximum" in all_["Class assignments"].text
    assert "In use: 80 % of the prototypes that a batch can reach (512 in all)." in all_["Patch assignments"].text


@pytest.mark.parametrize(
    ("control", "knob"),
    [("none", "--config.method.collapse.patch=sinkhorn"), ("centring", "--config.method.collapse.patch=sinkhorn"),
     ("sinkhorn", "--config.method.sinkhorn.eps=0.1"), ("memax", "--config.method.memax.weight=2")],
)  # fmt: skip
def test_one_prototype_takes_all(found, control, knob):
    found.config["method"]["collapse"]["patch"] = control
    one = found(health__mean_target_entropy_patch=0.09)["Patch assignments have collapsed"]
    assert (one.level, one.knob) == ("alarm", knob)
    assert "Patch assignments have collapsed" not in found(health__mean_target_entropy_patch=0.11)


@pytest.mark.parametrize(
    ("control", "knob"),
    [("sinkhorn", "--config.method.sinkhorn.eps=0.025"), ("memax", "--config.method.memax.sharpen=0.125"),
     ("centring", "--config.method.temperature.teacher_end=0.035")],
)  # fmt: skip
def test_uniform_targets(found, control, knob):
    found.config["method"]["collapse"]["cls"] = control
    one = found(health__target_entropy_cls=0.995)["Class assignments say nothing"]
    assert (one.level, one.knob) == ("alarm", knob) and "99.5 %" in one.text
    assert "Class assignments say nothing" not in found(health__target_entropy_cls=0.985)


@pytest.mark.parametrize(
    ("control", "knob"),
    [("sinkhorn", "--config.method.prototypes.patch=128"), ("memax", "--config.method.memax.weight=2"),
     ("centring", "--config.method.collapse.patch=sinkhorn")],
)  # fmt: skip
def test_hardly_used_prototypes(found, control, knob):
    found.config["method"]["collapse"]["patch"] = control
    one = found(health__prototypes_in_use_patch=0.05)["Patch assignments hardly use their prototypes"]
    assert (one.level, one.knob) == ("alarm", knob) and "Only 5 % of the patch prototypes" in one.text


def test_features_without_spread_or_rank(found):
    assert found(health__rankme=1.9)["Features have collapsed"].level == "alarm"
    assert found(health__feature_std_of_start=0.009)["Features have collapsed"].level == "alarm"
    assert found(health__feature_std_of_start=0.1)["Features have shrunk"].level == "hint"


def test_spread_is_measured_against_its_start_where_nothing_else_is_logged(found, rows_of):
    rows = rows_of()
    rows[-1]["health/feature_std"] = 0.005
    assert found(rows)["Features have collapsed"].knob == "--config.optim.learning_rate=0.0015"


def test_only_the_last_steps_count(found, rows_of):
    rows = rows_of()
    for row in rows[:-2]:  # lines every 10 steps: the last two are the last 20 steps
        row["health/target_entropy_cls"] = 0.999
    assert "Class assignments" in found(rows)
    rows = rows_of()
    rows[-2]["health/target_entropy_cls"] = rows[-1]["health/target_entropy_cls"] = 0.999
    assert "Class assignments say nothing" in found(rows)


def test_only_the_last_stage_counts(found, rows_of):
    rows = rows_of(stage="source", health__rankme=1.0) + rows_of(stage="target", health__rankme=None)
    assert "Features" in found(rows)


def test_alarms_of_the_run_are_told_once_with_their_first_step(found, rows_of):
    alarm = {"stage": "target", "alarm": "targets are uniform"}
    rows = rows_of() + [alarm | {"step": step} for step in (1500, 1520, 1540)]
    all_ = found(rows)
    title = "Raised during the run at step 1,500 of stage target, and 2 more times"
    assert all_[title].text == "targets are uniform" and list(all_)[0] == title


def test_skipped_steps_and_losses_that_are_not_finite(found):
    title = "Numbers that are not finite"
    assert found(results={"run": {"skipped_steps": 3}})[title].text.startswith("3 steps were not finite")
    assert found(train__loss=float("nan"))[title].knob == "--config.optim.learning_rate=0.0015"
    assert title not in found(results={"run": {"skipped_steps": 0}})


@pytest.mark.parametrize(
    ("last", "title", "knob"),
    [(0.60, "Still learning at the end", "--config.optim.duration=800"), (0.54, "Training has settled", ""),
     (0.40, "The score fell towards the end", "--config.optim.learning_rate=0.0015")],
)  # fmt: skip
def test_the_trend_of_knn_is_judged_against_its_interval(found, rows_of, last, title, knob):
    evaluated = [{"stage": "target", "step": s, "eval/knn/top1": v} for s, v in ((100, 0.3), (300, 0.5), (400, last))]
    interval = {"eval": {"knn/top1": {"low": 0.45, "high": 0.55}}}  # noise 0.05; two thirds of 100..400 is step 300
    assert found(rows_of() + evaluated, interval)[title].knob == knob


def test_a_linear_classifier_that_ran_out_of_iterations(found):
    found.config["evals"]["linear"] = {"max_iterations": 500}
    done, short = ({"linear/top1": {"value": 0.5, "protocol": {"converged": end}}} for end in (True, False))
    one = found(results={"eval": done, "controls": {"untrained": short}})["More iterations needed"]
    assert (one.level, one.knob) == ("hint", "--config.evals.linear.max_iterations=2000") and "untrained" in one.text
    assert "More iterations needed" not in found(results={"eval": done, "controls": {"untrained": done}})


def test_nothing_logged_is_nothing_said(found):
    assert found(rows=[]) == {}
    found.config.clear()
    assert found(health__prototypes_in_use_patch=0.05)["Patch assignments hardly use their prototypes"].knob == ""


@pytest.fixture
def told(gated_config, gated_rows_of):
    """told(changes of the rows) -> {title: finding} of a labelled method."""

    def run(**changes):
        rows = tuple(gated_rows_of(**changes))
        return {one.title: one for one in findings(RunFiles(gated_config, {}, Metrics(rows)))}

    run.gate = gated_config["method"]["gate"]
    return run


def test_an_open_gate_is_in_order_and_no_assignment_is_spoken_of(told):
    found = told()
    assert list(found) == ["Gate", "Features"] and {one.level for one in found.values()} == {"good"}
    assert found["Gate"].text == "Weights at the end: LoRot-E 0.40, flip 0.60. Their entropy is 90 % of its maximum."


@pytest.mark.parametrize(
    ("mode", "knob"),
    [("learned", "--config.method.gate.mode=usefulness"), ("frozen", "--config.method.gate.mode=usefulness"),
     ("usefulness", "--config.method.gate.temperature=0.2")],
)  # fmt: skip
def test_a_closed_gate_names_its_pretext_and_a_knob(told, mode, knob):
    told.gate["mode"] = mode
    one = told(gate__entropy=0.1, gate__weight_flip=0.98, gate__weight_lorot_e=0.02)["The gate has closed on flip"]
    assert (one.level, one.knob) == ("hint", knob) and "98 % of the weight" in one.text
    assert ("load_balance_weight" in one.text) == (mode == "learned")
    assert "Gate" in told(gate__entropy=0.21)


def test_a_gate_without_a_choice_is_not_closed(told):
    nothing = told(gate__entropy=0.0, gate__weight_flip=0.0, gate__weight_lorot_e=0.0)  # mode none
    alone = told(gate__entropy=0.0, gate__weight_lorot_e=None)  # one pretext
    assert list(nothing) == list(alone) == ["Features"]


def test_the_trend_of_an_area_is_no_accuracy(found, rows_of):
    evaluated = [{"stage": "target", "step": s, "eval/knn/auroc": v} for s, v in ((100, 0.3), (300, 0.5), (400, 0.8))]
    one = found(rows_of() + evaluated, {"eval": {"knn/auroc": {"low": 0.70, "high": 0.90}}})
    assert one["Still learning at the end"].text.startswith("k-NN mean AUROC gained 30.0 points")
    wide = {"eval": {"knn/auroc": {"low": 0.36, "high": 1.0}}}  # half the width is .32, the gain .3
    assert "Training has settled" in found(rows_of() + evaluated, wide)


@pytest.mark.parametrize(
    ("numbers", "title", "knob"),
    [((0.3, 1.2, -2.0), "Views of an image lie together, images apart", ""),
     ((1.15, 1.2, -2.0), "Views of an image lie no closer than other images", "--config.optim.duration=800"),
     ((1.13, 1.2, -2.0), "Views of an image lie together, images apart", ""),
     ((0.01, 0.02, -0.09), "Images look much alike", "--config.optim.learning_rate=0.0015"),
     ((0.03, 0.06, -0.11), "Views of an image lie together, images apart", "")],
)  # fmt: skip
def test_alignment_is_held_against_the_distance_of_images(found, numbers, title, knob):
    trained, untrained = (dict(zip(("alignment", "distance", "uniformity"), row, strict=True), rankme=9.0)
                          for row in (numbers, (1.0, 1.5, -2.25)))  # fmt: skip
    one = found(results={"health": {"trained": trained, "untrained": untrained}})[title]
    assert one.knob == knob and "Untrained: 1.00, 1.50 and \u22122.25." in one.text
    assert f"{numbers[0]:.2f} apart, two images {numbers[1]:.2f}" in one.text


def test_images_that_look_alike_to_a_clustering_method_point_to_its_control(found):
    found.config["method"]["collapse"]["cls"] = "centring"
    alike = {"alignment": 0.0, "distance": 0.01, "uniformity": -0.01, "rankme": 3.0}
    one = found(results={"health": {"trained": alike}})["Images look much alike"]
    assert (one.level, one.knob) == ("hint", "--config.method.collapse.cls=sinkhorn") and "Untrained" not in one.text


def test_features_that_are_not_finite_are_told_in_words(found):
    nothing = dict.fromkeys(("alignment", "distance", "uniformity", "rankme", "lidar"))
    one = found(results={"health": {"trained": nothing, "untrained": nothing}})
    assert one["The features of the trained backbone are no numbers"].level == "alarm"
    assert list(found(results={"health": {}})) == list(found(results={}))
