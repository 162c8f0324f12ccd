"""Names of measures in words."""

import pytest

from gssl_jax.report.measures import capital, fine_tuned, guess, kind, label, place, unit, without_kind


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
        ("segment_knn/miou", "masks, k-NN of patches, mean IoU", "In mean IoU with masks by nearest patches (k-NN)"),
        ("segment_5_linear/miou", "masks, linear head, 5 images per class, mean IoU",
         "In mean IoU with masks, linear head, 5 images per class"),
        ("segment_1_upernet/miou", "masks, UperNet fine-tuned, 1 image per class, mean IoU",
         "In mean IoU with masks, UperNet fine-tuned, 1 image per class"),
        ("finetune_1pct/top1", "fine-tuned with 1 % of the labels", "Fine-tuned with 1 % of the labels"),
        ("finetune_all/top1", "fine-tuned with all labels", "Fine-tuned with all labels"),
        ("robust_gaussian_noise/top1", "gaussian noise", "By gaussian noise"),
        ("robust_pgd_linf_4/top1", "PGD, linf 4/255", "By PGD, linf 4/255"),
        ("robust_pgd_l2_0.5/top1", "PGD, l2 0.5", "By PGD, l2 0.5"),
        ("robust_kept/top1", "share of the clean accuracy kept", "By share of the clean accuracy kept"),
        ("shift_shaded/top1", "on shaded", "By on shaded"),
        ("lowshot_1pct/top1", "1 % of the labels", "At 1 % of the labels"),
        ("lowshot_5/map", "5 images per class, mAP", "In mAP at 5 images per class"),
        ("lowshot_10pct/auroc", "10 % of the labels, mean AUROC", "In mean AUROC at 10 % of the labels"),
        ("lowshot_5imgs_class/top1", "the images of 5imgs_class", "From the images of 5imgs_class"),
        ("knn/f1_macro", "k-NN, macro F1", "In macro F1 by nearest neighbours (k-NN)"),
        ("finetune_all/other", "finetune_all/other", "By finetune_all/other"),
    ],
)  # fmt: skip
def test_a_measure_in_the_table_and_at_the_start_of_a_sentence(key, words, opening):
    assert (label(key), place(key)) == (words, opening)


def test_kinds_of_measures_with_their_units_and_guesses():
    assert (kind("knn/auroc"), unit("knn/auroc")) == ("mean AUROC", "")
    assert (kind("knn/top1"), unit("knn/top1")) == ("accuracy", " %")
    assert (kind("linear/map"), unit("linear/map")) == ("mAP", " %")
    assert guess("knn/auroc", None) == 0.5 and guess("knn/top1", {"k": 5}) is None
    assert guess("knn/map", {"guess": 0.12}) == 0.12 and guess("knn/map", {}) is None
    assert without_kind("k-NN, mAP") == without_kind("k-NN") == "k-NN"
    assert fine_tuned("finetune_1000/auroc") == fine_tuned("finetune_1000/map") == "1,000"
    assert fine_tuned("linear_sgd/top1") is None


@pytest.mark.parametrize(
    ("words", "begun"),
    [("mean IoU, masks", "Mean IoU, masks"), ("mAP, linear", "mAP, linear"), ("accuracy", "Accuracy"), ("", "")],
)
def test_a_sentence_begins_large_but_for_a_name_that_does_not(words, begun):
    assert capital(words) == begun
