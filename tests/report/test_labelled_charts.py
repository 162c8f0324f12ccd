"""Charts of a labelled method: which are drawn for which numbers, and every class in its place."""

import numpy as np
import pytest
from PIL import Image

from gssl_jax.report import charts, labelled_charts
from gssl_jax.report.reading import Metrics
from gssl_jax.report.words import ClassScores


def opened(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and 600 < image.width < 900 and 250 < image.height < 1300
        return np.asarray(image.convert("RGB")).astype(int)


def near(image, colour):
    """Pixels of about this colour."""
    return int((np.abs(image - colour).sum(axis=-1) < 40).sum())


def test_every_curve_of_a_labelled_method_is_drawn(tmp_path, gated_rows_of):
    drawn = charts.draw_curves(Metrics(tuple(gated_rows_of())), {}, tmp_path, chosen=300)
    assert list(drawn) == ["loss", "validation", "gate", "alignment", "pretexts", "features", "schedule"]
    for path in drawn.values():
        assert opened(path).std() > 5


def test_only_what_was_logged_is_drawn(tmp_path):
    rows = [{"stage": "t", "step": s, "train/loss": 1.0, "train/loss_supervised": 1.0} for s in range(9)]
    assert list(charts.draw_curves(Metrics(tuple(rows)), {}, tmp_path)) == ["loss"]  # no pretexts, no validation
    without = [{**row, "gate/weight_flip": 1.0, "gate/alignment_flip": 0.0} for row in rows]
    assert list(charts.draw_curves(Metrics(tuple(without)), {}, tmp_path)) == ["loss", "gate"]  # zeros say nothing


def test_the_chosen_step_is_marked_where_validation_looked(tmp_path, gated_rows_of):
    metrics = Metrics(tuple(gated_rows_of(stage="source") + gated_rows_of()))
    images = {
        chosen: opened(labelled_charts.draw_validation(metrics, chosen, tmp_path / f"{chosen}.png"))
        for chosen in (None, 300)
    }
    assert images[300].shape != images[None].shape or (images[300] != images[None]).any()
    assert labelled_charts.draw_validation(Metrics(), 300, tmp_path / "none.png") is None


@pytest.mark.parametrize("classes", [1, 3, 19, 100])
def test_classes_of_a_long_tail(tmp_path, classes):
    images = tuple(int(500 * 0.01 ** (k / max(1, classes - 1))) for k in range(classes))
    accuracies = (None, *np.linspace(0.9, 0.1, classes)[1:]) if classes > 1 else (0.5,)
    names = tuple(f"$^${k} <b> \u732b" for k in range(classes))
    opened(labelled_charts.draw_classes(ClassScores(names, accuracies, images), tmp_path))


def test_groups_are_told_apart_in_a_long_tail_and_not_in_a_balanced_set(tmp_path):
    orange = (0xD5, 0x5E, 0x00)
    for images, marked in (((90, 50, 30), True), ((50, 50, 50), False)):
        scores = ClassScores(("a", "b", "c"), (0.9, 0.2, 0.5), images)
        assert scores.uneven == marked
        image = opened(labelled_charts.draw_classes(scores, tmp_path))
        assert (near(image, orange) > 20) == marked


def test_classes_without_test_images_leave_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="no class has test images"):
        labelled_charts.draw_classes(ClassScores(("a",), (None,), (3,)), tmp_path)
