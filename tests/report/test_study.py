"""The report of a study from folders that nobody ran: numbers by hand, verdicts, what collapsed and what is missing."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from scipy import stats

from gssl_jax.errors import UserError
from gssl_jax.report.study import write_study
from gssl_jax.report.study_cells import read_study
from gssl_jax.report.study_tables import (
    Grid,
    contrast_table,
    control_tables,
    family_table,
    html,
    markdown,
    prediction_table,
    scores_table,
    status_table,
)
from gssl_jax.report.study_verdict import champion, contrasts, effects, study_verdict
from gssl_jax.runs.study import Cell
from tests.report.page import Page
from tests.report.studies import filled, put, study_config

FIVE = "lowshot_5/top1"
METHODS = {
    "maskcluster": ("joint", "sinkhorn/sinkhorn", "memax/memax"),
    "simclr": ("contrastive",),
    "dino": ("clustering", "centring"),
    "mae": ("masked",),
}
BASE = {"maskcluster": 0.5, "simclr": 0.4, "dino": 0.44, "mae": 0.3}
LUCK = (0.0, 0.01, 0.02)
"""By seed, shared by all methods: without pairing it would blur the differences."""
NOISE = {"maskcluster": (0.0, 0.0, 0.0), "simclr": (0.0, 0.004, -0.004), "dino": (0.006, 0.0, 0.0),
         "mae": (0.0, 0.002, 0.0)}  # fmt: skip


def value(cell, key):
    own = BASE[cell.method] - (0.1 if cell.controls == "memax/memax" else 0.0) - (0.05 if key != FIVE else 0.0)
    return own + LUCK[cell.seed] + NOISE[cell.method][cell.seed]


@pytest.fixture
def config():
    return study_config(METHODS)


@pytest.fixture
def folder(tmp_path, config):
    return filled(tmp_path / "study", config, value)


def test_the_table_has_means_and_standard_deviations_over_seeds(config, folder):
    """MaskCluster 50, 51, 52: 51.0 and 1.0; SimCLR 40, 41.4, 41.6: 41.0 and .87."""
    grid = scores_table(read_study(config, folder))
    rows = {row[0].partition("\n")[0]: row for row in grid.rows}
    assert rows["MaskCluster sinkhorn/sinkhorn"][1:] == ("46.0 \u00b1 1.0", "51.0 \u00b1 1.0")
    assert rows[next(name for name in rows if "simclr" in name.lower())][2] == "41.0 \u00b1 0.9"
    assert [row[0].partition("\n")[2] for row in grid.rows] == ["contrastive", "clustering", "masked", "joint", "joint"]
    best = next(k for k, row in enumerate(grid.rows) if row[0].startswith("MaskCluster sinkhorn"))
    assert grid.bold == {(best, 1), (best, 2)}


def test_a_reference_with_labels_is_out_of_the_competition(tmp_path):
    methods = {"maskcluster": ("joint",), "supervised": ("supervised",)}
    config = study_config(methods)
    study = read_study(
        config, filled(tmp_path / "s", config, lambda cell, key: 0.3 + 0.3 * (cell.method != "maskcluster"))
    )
    assert scores_table(study).bold == {(0, 1), (0, 2)}


def test_the_question_is_answered_by_the_best_of_each_family_paired_over_seeds(config, folder):
    """Against DINO: .054, .06, .06; SimCLR .1, .096, .104; MAE .2, .198, .2. Holm over the three p-values."""
    found = {one.family: one for one in contrasts(read_study(config, folder), FIVE)}
    differences = {"clustering": [0.054, 0.06, 0.06], "contrastive": [0.1, 0.096, 0.104], "masked": [0.2, 0.198, 0.2]}
    ps = {}
    for family, values in differences.items():
        assert found[family].found.mean == pytest.approx(np.mean(values))
        ps[family] = stats.ttest_1samp(values, 0.0).pvalue
        assert found[family].found.p == pytest.approx(ps[family])
    order = sorted(ps, key=ps.get)
    assert found[order[0]].p == pytest.approx(3 * ps[order[0]])
    assert found[order[2]].p == pytest.approx(max(ps[order[2]], 2 * ps[order[1]]))


def test_the_verdict_names_the_rival_that_comes_closest(config, folder):
    judged = study_verdict(read_study(config, folder))
    assert judged.tone == "good"
    assert judged.headline.lower() == (
        "maskcluster sinkhorn/sinkhorn is 5.8 \u00b1 0.9 points above dino centring, the best single family, at 5 "
        "images per class, paired over 3 seeds."
    )  # mean .058, sd .00346, t(.975, 2) = 4.303: 4.303 x .00346 / sqrt 3 = .0086
    assert any("masked (mae) +19.9" in sentence.lower() for sentence in judged.sentences)


def changed(folder, config, method, shift):
    """The folder with another score of a method: `shift` by seed."""
    for seed in config.seeds:
        for controls in config.methods[method].controls:
            path = folder.run(Cell(method, controls, seed)) / "results.json"
            results = json.loads(path.read_text())
            for one in results["eval"].values():
                one["value"] += shift[seed]
            path.write_text(json.dumps(results))


def test_an_interval_that_holds_zero_is_said_to(config, folder):
    changed(folder, config, "dino", (0.05, 0.07, 0.03))
    judged = study_verdict(read_study(config, folder))
    assert (judged.tone, judged.badge) == ("unclear", "Not told apart")
    assert "the interval holds zero" in judged.headline


def test_a_family_that_is_ahead_is_said_to_be(config, folder):
    changed(folder, config, "simclr", (0.3, 0.3, 0.3))
    judged = study_verdict(read_study(config, folder))
    assert judged.tone == "bad"
    assert "points below simclr" in judged.headline.lower()


def test_what_the_correction_takes_away_is_not_claimed(tmp_path):
    """Two rivals at p = .04 or so: after Holm's correction .08."""
    config = study_config({"maskcluster": ("joint",), "simclr": ("contrastive",), "mae": ("masked",)})
    spread = (0.01, 0.02, 0.03)  # mean .02, p = .074 for one; .3 more certain below
    near = (0.012, 0.02, 0.028)  # p = .049
    loss = {"maskcluster": (0, 0, 0), "simclr": near, "mae": near}
    assert 0.025 < stats.ttest_1samp(near, 0).pvalue < 0.05 < stats.ttest_1samp(spread, 0).pvalue
    study = read_study(config, filled(tmp_path / "s", config, lambda cell, key: 0.5 - loss[cell.method][cell.seed]))
    judged = study_verdict(study)
    assert (judged.tone, judged.badge) == ("unclear", "Above, not surely")
    assert "not after correction for the 2 families" in judged.headline


def test_one_seed_has_no_interval_and_says_so(tmp_path):
    config = study_config(METHODS, seeds=(0,))
    folder = filled(tmp_path / "s", config, value)
    judged = study_verdict(read_study(config, folder))
    assert judged.badge == "One seed, no interval"
    assert "\u00b1" not in write_study(config, folder).markdown


def test_main_effects_of_the_controls(tmp_path):
    """Class sinkhorn gives 10 points and patch memax 4 more; none/none alone is no part of the layout."""
    pairs = ("sinkhorn/sinkhorn", "sinkhorn/memax", "memax/sinkhorn", "memax/memax", "none/none")
    config = study_config({"maskcluster": ("joint", *pairs)})

    def score(cell, key):
        first, second = cell.controls.split("/")
        jitter = 0.001 * cell.seed * (1 if first == second else -1)
        return 0.3 + 0.1 * (first == "sinkhorn") + 0.04 * (second == "memax") - 0.2 * (first == "none") + jitter

    study = read_study(config, filled(tmp_path / "s", config, score))
    found = effects(study, "maskcluster", FIVE)
    assert found.factors.first["sinkhorn"] == pytest.approx({0: 0.42, 1: 0.42, 2: 0.42})
    assert found.factors.second["sinkhorn"] == pytest.approx({0: 0.35, 1: 0.35, 2: 0.35})
    said = " ".join(study_verdict(study).sentences)
    assert "at class level sinkhorn wins (+10.0 \u00b1 0.0 points against memax" in said
    assert "at patch level memax wins (+4.0 \u00b1 0.0 points against sinkhorn" in said
    [(name, (by_pair, marginal)), *more] = [control_tables(study)[0]]
    assert (name, more) == ("MaskCluster", [])
    assert by_pair.rows[0][1].startswith("40.1")  # equal pairs gain .1 a seed
    assert by_pair.rows[0][2].startswith("43.9")  # .44, and mixed pairs lose as much
    assert [row[0] for row in marginal.rows] == [
        "sinkhorn at class level", "memax at class level", "sinkhorn at patch level", "memax at patch level",
    ]  # fmt: skip


def collapsing(cell):
    """Rows of a run whose class targets all go to one prototype at the end, for memax."""
    if cell.controls != "memax/memax":
        return [{"step": 300, "health/mean_target_entropy_cls": 0.9}]
    return [{"step": step, "health/mean_target_entropy_cls": 0.05} for step in (290, 300)]


def test_a_cell_that_collapsed_is_named_as_such(tmp_path, config):
    folder = filled(tmp_path / "s", config, value, rows=collapsing)
    study = read_study(config, folder)
    assert {one.cell.controls for one in study.seen if one.status == "collapsed"} == {"memax/memax"}
    said = " ".join(study_verdict(study).sentences)
    assert "3 cells collapsed, counted with the scores that came of it: MaskCluster memax/memax (3 of 3)." in said
    row = next(row for row in scores_table(study).rows if "memax" in row[0])
    assert row[0].endswith("joint, 3 of 3 collapsed")
    assert "entropy of the mean target 5 %" in next(r[2] for r in status_table(study).rows if "memax" in r[0])


def test_an_alarm_that_went_away_is_no_collapse(tmp_path, config):
    folder = filled(tmp_path / "s", config, value, alarm="Nearly all images go to one prototype. Try --config.x=1")
    study = read_study(config, folder)
    assert {one.status for one in study.seen} == {"recovered"}
    assert study.seen[0].said == "At step 40: Nearly all images go to one prototype."
    assert not any("collapsed" in sentence for sentence in study_verdict(study).sentences)


def test_failed_diverged_and_missing_cells_are_told(config, folder):
    for cell in (Cell("mae", "", 2), Cell("simclr", "", 1), Cell("dino", "centring", 0)):
        shutil.rmtree(folder.run(cell))
    folder.note(Cell("mae", "", 2), 1, 5.0, "MemoryError: too large", False)
    (folder.path / "ledger" / "simclr-s1.json").unlink()
    put(folder, Cell("dino", "centring", 0), {}, skipped=250)
    written = write_study(config, folder)
    found = {one.cell.name: one for one in read_study(config, folder).seen}
    assert (found["mae-s2"].status, found["mae-s2"].said) == ("failed", "MemoryError: too large")
    assert found["simclr-s1"].status == "missing"
    assert found["dino-centring-s0"].said == "250 of 300 steps were not finite and changed nothing."
    assert "1 cell failed, left no score: mae (1 of 3)." in written.markdown.lower()
    assert "1 of 15 cells are not run to their end" in written.markdown
    page = Page(written.page.read_text())
    assert "MemoryError: too large" in page.said


def test_judgements_of_other_images_are_measures_of_their_own(tmp_path):
    config = study_config({"maskcluster": ("joint",), "mae": ("masked",)}, measures=(FIVE, "mosaics/linear/auroc"))
    with config.unlocked():
        config.judged.mosaics = "--data=mosaics"
    folder = filled(tmp_path / "s", config, lambda cell, key: 0.4 + 0.1 * (cell.method == "maskcluster"),
                    judged=lambda cell: {"mosaics": {"linear/auroc": 0.7}})  # fmt: skip
    study = read_study(config, folder)
    assert study.seen[0].scores["mosaics/linear/auroc"] == 0.7
    assert scores_table(study).headings[-1] == "mosaics: linear, mean AUROC"
    assert scores_table(study).caption.endswith("Columns of mean AUROC are times 100.")


def test_families_are_means_of_their_methods_with_their_own_controls(tmp_path):
    """DINO 44 and SwAV 40: 42; MaskCluster with its first controls alone."""
    config = study_config({"maskcluster": ("joint", "memax/memax", "none/none"), "dino": ("clustering", "centring"),
                           "swav": ("clustering", "sinkhorn")})  # fmt: skip
    scores = {"maskcluster": 0.5, "dino": 0.44, "swav": 0.4}
    given = filled(tmp_path / "s", config, lambda c, key: scores[c.method] - 0.3 * (c.controls == "none/none"))
    rows = {row[0].partition("\n")[0]: row[2] for row in family_table(read_study(config, given)).rows}
    assert rows == {"clustering": "42.0 \u00b1 0.0", "joint": "50.0 \u00b1 0.0"}


def test_label_free_scores_are_held_against_labelled_ones_over_settings(tmp_path, config):
    """RankMe in the order of the scores, the other in the reverse one; over five settings, seeds averaged."""
    folder = filled(tmp_path / "s", config, value,
                    health=lambda cell: {"rankme": value(cell, FIVE), "distance": -value(cell, FIVE)})  # fmt: skip
    grid = prediction_table(read_study(config, folder))
    assert "over 5 settings" in grid.caption
    found = {row[0]: row[2].partition("\n")[0] for row in grid.rows}
    assert found == {"RankMe": "+1.00", "distance": "\u22121.00"}


def test_the_page_opens_offline_and_has_every_section(config, folder):
    written = write_study(config, folder)
    page = Page(written.page.read_text())
    assert page.ids("section")[:4] == ["verdict", "table", "figure", "contrasts"]
    assert {"families", "cells", "cost", "versions", "protocol", "config"} <= set(page.ids("section"))
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 1
    assert sources[0].startswith("data:image/png;base64,")
    assert not [attrs for tag, attrs in page.tags if tag in ("script", "link")]
    assert written.headline in page.said


def test_a_study_without_scores_still_has_a_page(config, tmp_path):
    folder = filled(tmp_path / "s", study_config(METHODS, seeds=()), value)
    written = write_study(config, folder)
    assert written.headline == "No cell has a score yet."
    assert "15 of 15 cells are not run" in Page(written.page.read_text()).said


def test_a_method_alone_is_told_without_a_comparison(tmp_path):
    config = study_config({"maskcluster": ("joint",)})
    judged = study_verdict(read_study(config, filled(tmp_path / "s", config, value)))
    assert (judged.tone, judged.badge) == ("none", "Nothing to compare")
    assert "MaskCluster has the highest mean at 5 images per class, 51.0 over 3 seeds." == judged.headline


def test_the_method_of_the_question_has_its_first_controls(config, folder):
    assert champion(read_study(config, folder))[:2] == ("maskcluster", "sinkhorn/sinkhorn")


def test_an_unknown_family_is_refused(tmp_path):
    config = study_config({"maskcluster": ("jont",)})
    with pytest.raises(UserError, match="joint"):
        read_study(config, filled(tmp_path / "s", config, value))


def test_tables_as_markdown_and_html():
    grid = Grid("Read so.", ("a", "b", "c"), (("x\nnote", "1.0 \u00b1 0.1", "<2>\np = 3"),), frozenset({(0, 1)}))
    assert markdown(grid).splitlines() == [
        "Read so.", "", "| a | b | c |", "| --- | --: | --: |", "| x; note | **1.0 \u00b1 0.1** | <2>; p = 3 |",
    ]  # fmt: skip
    page = html(grid)
    assert "<b>1.0</b><small>\u00b1 0.1</small>" in page
    assert "&lt;2&gt;<small>p = 3</small>" in page
    assert '<th scope="row">x<small>note</small></th>' in page


def test_a_difference_is_bold_where_it_survives_the_correction(config, folder):
    grid = contrast_table(read_study(config, folder))
    assert grid.headings == ("measure", "contrastive", "clustering", "masked")
    assert {row for row, _ in grid.bold} == {0, 1}
    assert grid.rows[1][2].lower().startswith("+5.8 \u00b1 0.9\ndino centring\np = 0.00")
