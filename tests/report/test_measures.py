"""Names of measures in words."""

import pytest

from gssl_jax.report.measures import fine_tuned, is_auroc, kind, label, place, unit


@pytest.mark.parametrize(
    ("key", "words", "opening"),
    [
        ("knn/top1", "k-NN", "By nearest neighbours (k-NN)"),
        ("linear_sgd/top1", "linear, SGD schedule of HPT",
         "With a linear classifier on all labels (SGD schedule of HPT)"),
        ("finetune_1000/top1", "fine-tuned with 1,000 labels", "Fine-tuned with 1,000 labels"),
        ("lowshot_1/top1", "1 image per class", "At 1 image per class"),
        ("knn/auroc", "k-NN, mean AUROC", "In mean AUROC by nearest neighbours (k-NN)"),
        ("linear/auroc", "linear, mean AUROC", "In mean AUROC with a linear classifier on all labels"),
        ("linear_sgd/auroc", "linear, SGD schedule of HPT, mean AUROC",
         "In mean AUROC with a linear classifier on all labels (SGD schedule of HPT)"),
        ("finetune_1000/auroc", "fine-tuned with 1,000 labels, mean AUROC",
         "In mean AUROC fine-tuned with 1,000 labels"),
        ("voc/map", "voc/map", "By voc/map"),
    ],
)  # fmt: skip
def test_a_measure_in_the_table_and_at_the_start_of_a_sentence(key, words, opening):
    assert (label(key), place(key)) == (words, opening)


def test_an_area_is_no_accuracy():
    assert is_auroc("knn/auroc") and not is_auroc("knn/top1")
    assert (kind("knn/auroc"), unit("knn/auroc")) == ("mean AUROC", "")
    assert (kind("knn/top1"), unit("knn/top1")) == ("accuracy", " %")
    assert fine_tuned("finetune_1000/auroc") == "1,000" and fine_tuned("linear_sgd/top1") is None
