"""The live line: what it says of each kind of method, and that it stays short."""

import pytest

from gssl_jax.runs.console import LONGEST, clock, progress_line

RATE = {"train/images_per_second": 140.0}


def test_times():
    assert [clock(seconds) for seconds in (-1, 59.6, 3725)] == ["0:00", "1:00", "1:02:05"]


def test_a_method_without_labels_tells_losses_entropy_and_use():
    row = RATE | {"train/loss": 9.5, "train/loss_cls": 5.0, "health/target_entropy_cls": 0.4}
    assert progress_line("target", 20, 400, row, 33.0) == (
        "target 20/400 | ETA 0:33 | 140 img/s | loss 9.500 cls 5.000 | entropy cls 0.40"
    )


def labelled(**pretexts):
    """A row with the loss and the weight of each pretext."""
    row = RATE | {"train/loss": 2.2, "train/loss_supervised": 2.0, "train/accuracy": 0.41}
    row |= {f"train/loss_{name}": loss for name, (loss, _) in pretexts.items()}
    return row | {f"gate/weight_{name}": weight for name, (_, weight) in pretexts.items()}


def test_a_labelled_method_tells_losses_accuracy_and_each_pretext_by_its_weight():
    row = labelled(lorot_e=(2.7, 0.3), flip=(0.69, 0.7))
    assert progress_line("target", 20, 400, row, 33.0) == (
        "target 20/400 | ETA 0:33 | 140 img/s | labels 2.000 acc 0.410 | LoRot-E 2.70x.30 flip 0.69x.70"
    )
    assert progress_line("target", 20, 400, labelled(), 33.0).endswith("labels 2.000 acc 0.410")


@pytest.mark.parametrize("number", [3, 7])
def test_the_line_stays_short_with_many_pretexts(number):
    names = ("rotation", "jigsaw", "flip", "lorot_e", "lorot_i", "channels", "relative_position")[:number]
    weights = [0.05] * (number - 1) + [1.0 - 0.05 * (number - 1)]
    row = labelled(**{name: (2.77, weight) for name, weight in zip(names, weights, strict=True)})
    line = progress_line("target", 200000, 780000, row, 36330.0)
    assert len(line) <= LONGEST and "labels 2.000" in line
    if number == 7:
        assert "gate rel .70" in line and line.endswith("...")  # the heaviest first
