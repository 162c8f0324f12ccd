"""Line charts: which are drawn for which numbers, and that what is drawn is a picture."""

import numpy as np
import pytest
from PIL import Image

from gssl_jax.report import charts, lines
from gssl_jax.report.reading import Metrics, Series
from gssl_jax.report.style import class_names, drawable
from gssl_jax.report.words import comparison_table


def check(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and 600 < image.width < 900 and 300 < image.height < 1300
        assert np.asarray(image.convert("L")).std() > 5
    assert 3_000 < path.stat().st_size < 300_000


def test_every_curve_with_numbers_is_drawn(tmp_path, rows_of):
    rows = rows_of() + [{"stage": "target", "step": s, "eval/knn/top1": 0.5} for s in (100, 400)]
    drawn = charts.draw_curves(Metrics(tuple(rows)), {"untrained": 0.3, "pixels": 0.2}, tmp_path)
    assert list(drawn) == ["loss", "evaluation", "features", "entropy", "prototypes", "schedule"]
    for name, path in drawn.items():
        assert path == tmp_path / f"{name}.png"
        check(path)


def test_curves_without_numbers_are_left_out(tmp_path):
    rows = [{"stage": "$_t", "step": step, "train/loss": 1.0, "health/rankme": None} for step in range(100)]
    rows += [{"stage": "u", "step": 5, "train/loss": float("nan"), "eval/knn/top1": 0.5}]  # one evaluation is no curve
    drawn = charts.draw_curves(Metrics(tuple(rows)), {}, tmp_path)
    assert list(drawn) == ["loss"]
    assert charts.draw_curves(Metrics(), {}, tmp_path) == {}


def test_a_long_series_is_thinned_by_means():
    steps = np.arange(4000.0)
    thin = lines.thinned(Series(steps, 2 * steps))
    assert len(thin.steps) == 800
    np.testing.assert_array_equal(thin.steps[:2], [2.0, 7.0])  # the means of 0..4 and 5..9
    np.testing.assert_array_equal(thin.values, 2 * thin.steps)
    assert lines.thinned(Series(steps[:800], steps[:800])).steps.shape == (800,)


def test_low_shot_needs_low_shot_rows(tmp_path, make_results):
    trained = {"lowshot_1/top1": 0.3, "lowshot_5/top1": 0.5, "knn/top1": 0.5}
    results = make_results(trained, {"lowshot_5/top1": 0.2})
    results["eval"]["lowshot_1/top1"] |= {"low": None, "high": None}
    path = charts.draw_lowshot(comparison_table(results), tmp_path)
    assert path is not None
    check(path)
    assert charts.draw_lowshot(comparison_table(make_results({"knn/top1": 0.5})), tmp_path) is None


@pytest.mark.parametrize("classes", [3, 20, 40])
def test_tsne_is_drawn_with_and_without_a_legend(tmp_path, classes):
    points = np.random.default_rng(0).normal(size=(200, 2))
    names = tuple(f"$^${k} <b>" for k in range(classes))
    check(charts.draw_tsne(points, np.arange(200) % classes, names, tmp_path))


def test_tsne_without_labels_and_of_the_wrong_form(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 2))
    check(charts.draw_tsne(points, np.full(50, -1), (), tmp_path))
    with pytest.raises(ValueError, match="t-SNE needs points"):
        charts.draw_tsne(points, np.zeros(49), (), tmp_path)


def test_names_that_the_font_cannot_write_become_numbers():
    assert drawable("Stra\u00dfe 7") and not drawable("\u732b")
    names = class_names([-1, 0, 1, 2, 9], ("\u732b", "a very long name of a class", "ok"), longest=12)
    assert names == {-1: "unlabelled", 0: "class 0", 1: "a very long\u2026", 2: "ok", 9: "class 9"}


def test_areas_and_accuracies_have_panels_of_their_own(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(charts, "save", lambda figure, path: shown.append(figure.axes) or path)
    rows = [{"stage": "t", "step": s, "eval/knn/top1": 0.5, "eval/knn/auroc": 0.8} for s in (1, 2)]
    charts._evaluation(Metrics(tuple(rows)), {"started": 0.4, "mine": 0.1}, tmp_path / "e.png")
    (accuracy, area), *_ = shown
    assert accuracy.get_title(loc="left") == "accuracy on test images, %"
    assert area.get_title(loc="left") == "mean AUROC on test images, times 100"
    assert [line.get_label() for line in accuracy.lines] == ["k-NN", "start, k-NN", "mine, k-NN"]
    assert [line.get_label() for line in area.lines] == ["k-NN"]


def test_few_labels_for_every_backbone_that_has_them(tmp_path, monkeypatch, make_results):
    shown = []
    monkeypatch.setattr(charts, "save", lambda figure, path: shown.append(figure.axes[0]) or path)
    results = make_results({"lowshot_1/top1": 0.3}, {"lowshot_1/top1": 0.2})
    results["controls"]["started"] = {"lowshot_1/top1": results["eval"]["lowshot_1/top1"]}
    charts.draw_lowshot(comparison_table(results), tmp_path)
    assert shown[0].get_legend_handles_labels()[1] == ["trained", "start", "untrained"]
