"""Charts of contrast, of the watched score and of a linear classifier over its iterations."""

import numpy as np
import pytest
from PIL import Image

from gssl_jax.report import progress_charts
from gssl_jax.report.charts import draw_curves
from gssl_jax.report.html import write_report
from gssl_jax.report.reading import Metrics
from gssl_jax.report.words import comparison_table
from tests.report.page import Page


def contrast_rows(**more):
    """Ten lines of a method that contrasts."""
    row = {"stage": "target", "train/loss": 4.0, "train/accuracy_contrast": 0.4, "health/queue_filled": 0.5,
           "health/positive_cosine": 0.9, "health/negative_cosine": 0.2}  # fmt: skip
    return [row | more | {"step": step} for step in range(10, 110, 10)]


@pytest.fixture
def shown(monkeypatch):
    """The axes of the figures that were saved, by name."""
    figures = {}

    def save(figure, path):
        figures[path.stem] = figure.axes
        return path

    monkeypatch.setattr(progress_charts, "save", save)
    return figures


def test_contrast_has_a_panel_for_what_was_logged(tmp_path, shown):
    progress_charts.draw_contrast(Metrics(tuple(contrast_rows())), tmp_path / "contrast.png")
    titles = [one.get_title(loc="left") for one in shown["contrast"]]
    assert titles == ["own key told from the others, %", "cosine of two views", "real keys in the queue, %"]
    told, cosines, filled = shown["contrast"]
    assert told.lines[0].get_ydata()[0] == pytest.approx(40) and filled.lines[0].get_ydata()[0] == pytest.approx(50)
    assert [line.get_ydata()[0] for line in cosines.lines] == pytest.approx([0.9, 0.2])
    rows = ({"stage": "t", "step": 1, "health/positive_cosine": -0.5, "health/target_spread": 0.8},)
    progress_charts.draw_contrast(Metrics(rows), tmp_path / "contrast.png")
    assert len(shown["contrast"]) == 2 and shown["contrast"][0].get_ylim()[0] < -0.5  # as early in a BYOL training


def test_the_watched_score_has_its_start_and_its_best(tmp_path, shown):
    """Steps of the second stage count from the end of the first, 100."""
    rows = [{"stage": "base", "step": 100, "train/loss": 1.0}]
    rows += [{"stage": "target", "step": step, "watch/score": 0.5 + step / 1000} for step in (10, 20, 30)]
    watch = {"watch": "knn", "start": 0.55, "best": 0.52, "best_step": 20}
    progress_charts.draw_watch(Metrics(tuple(rows)), watch, tmp_path / "watch.png")
    (axes,) = shown["watch"]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["at the start"].get_ydata()[0] == pytest.approx(55)
    best = lines["best, step 20"]
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (120, pytest.approx(52))
    assert axes.get_title(loc="left") == "k-NN accuracy, %"
    progress_charts.draw_watch(
        Metrics(tuple(rows)), {"watch": "health", "best": 0.5, "best_step": 20}, tmp_path / "watch.png"
    )
    assert max(shown["watch"][0].lines[1].get_ydata()) == pytest.approx(0.53)  # health is no per cent


def test_both_are_among_the_curves_where_they_were_logged(tmp_path):
    looks = [{"stage": "target", "step": step, "watch/score": 0.4} for step in (0, 50)]
    assert "watch" not in draw_curves(Metrics((*contrast_rows(), looks[0])), {}, tmp_path)  # the start is no course
    drawn = draw_curves(Metrics((*contrast_rows(), *looks)), {}, tmp_path)
    assert list(drawn) == ["loss", "contrast", "watch"]
    for path in drawn.values():
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_the_linear_classifier_in_its_course(tmp_path, shown, make_results):
    """Points that are no numbers are left out; a control without a curve has no line."""
    results = make_results({"linear_sgd/top1": 0.5}, {"linear_sgd/top1": 0.3}, {"linear_sgd/top1": 0.2})
    results["eval"]["linear_sgd/top1"]["protocol"] = {"curve": {"steps": [1, 2, 3], "validation": [0.1, None, 0.4]}}
    results["controls"]["pixels"]["linear_sgd/top1"]["protocol"] = {"curve": {"steps": [1], "validation": [0.2]}}
    assert progress_charts.draw_iterations(comparison_table(results), tmp_path) == tmp_path / "iterations.png"
    (axes,) = shown["iterations"]
    assert [line.get_label() for line in axes.lines] == ["trained", "raw pixels"]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 10], [3, 40]])
    assert progress_charts.draw_iterations(comparison_table(make_results({"knn/top1": 0.5})), tmp_path) is None


@pytest.fixture
def moco_page(make_folder, config, make_results):
    """moco_page(**changes of `run`) -> the page of a method without patches or prototypes."""

    def write(rows=None, **run):
        config["method"], config["backbone"] = {"name": "moco", "temperature": 0.2}, {"kind": "resnet"}
        results = make_results({"linear_sgd/top1": 0.5, "finetune_1000/top1": 0.6}, {"linear_sgd/top1": 0.3})
        results["eval"]["linear_sgd/top1"]["protocol"] = {"curve": {"steps": [1, 2], "validation": [0.1, 0.4]}}
        results["run"] |= run
        folder = make_folder(results=results, rows=rows or contrast_rows(), settings=config)
        return Page(write_report(folder, {}, ("a", "b", "c")).read_text())

    return write


def test_a_page_says_nothing_of_what_a_method_does_not_have(moco_page):
    page = moco_page()
    for words in ("No reconstructions", "No patch clusters", "No attention maps", "Each should fall", "few images per"):
        assert words not in page.said
    assert "MoCo v2 pretraining" in page.said and "contrast with a queue of keys" in page.said
    assert "rises as real keys take its place" in page.said and "No nearest neighbours" in page.said
    assert page.ids("figure")[:3] == ["figure-iterations", "figure-loss", "figure-contrast"]
    assert "the whole network is trained on from there" in page.said  # fine-tuning is not on frozen features
    assert "0.1, 0.4" not in page.said.split("Protocol")[2].split("Configuration")[0]


def test_a_stopped_training_is_said_twice_and_what_was_kept(moco_page):
    watch = {"watch": "knn", "start": 0.48, "best": 0.523, "best_step": 40, "last": 0.44, "stopped_step": 60,
             "restored_step": 0, "why": "k-NN fell below the start."}  # fmt: skip
    page = moco_page(continuation=watch)
    said = "Training was stopped at step 60: k-NN fell below the start. What is judged here is the state before any"
    assert page.said.count(said) == 2 and 'class="stopped"' in page.text
    assert (
        "k-NN accuracy was watched: 48.0 % at the start, 52.3 % at best (step 40), 44.0 % at the last look."
        in page.said
    )
    watch |= {"stopped_step": None, "restored_step": None, "why": None, "watch": "health", "last": 3.14159}
    page = moco_page(continuation=watch)
    assert "stopped at" not in page.said and "3.14 at the last look. It gave no reason to stop" in page.said
    assert page.ids("section").index("continuation") == page.ids("section").index("table") + 1
    assert "continuation" not in moco_page(continuation=None).ids("section")
