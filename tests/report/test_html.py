"""The page: whole, offline, escaped, and still a page when half of its inputs are missing."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from gssl_jax.report.captions import HEADINGS
from gssl_jax.report.html import write_report
from tests.report.page import Page

OPTIONAL = ("classes", "continuation", "iterations", "robustness")
SECTIONS = [name for name in HEADINGS if name not in OPTIONAL]  # of a method that learns without labels


@pytest.fixture
def report(make_folder, make_pictures):
    """report(classes, pictures, **folder) -> the parsed page."""

    def write(classes=("cat", "dog", "hen"), pictures=None, **folder):
        path = write_report(make_folder(**folder), make_pictures() if pictures is None else pictures, classes)
        assert path.name == "report.html"
        return Page(path.read_text())

    return write


def test_the_page_has_every_section_the_verdict_first(report):
    page = report()
    assert page.ids("section") == SECTIONS and page.ids("section")[0] == "verdict"
    for name, words in HEADINGS.items():
        assert (words in page.said) == (name in SECTIONS)
    assert "At 5 images per class this backbone is 24.0 points above the untrained one." in page.said
    assert page.text.count('class="chance" style="left:33.33%"') == 3
    assert "Dotted: guessing among 3 classes, 33.3 %." in page.said
    assert len(page.ids("figure")) == 12  # low-shot, five curves (no evaluation over steps), six sheets


def test_pictures_are_inside_and_nothing_comes_from_outside(report):
    page = report()
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "srcset", "poster", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"base64,[^\"]+", "", page.text))
    for tag, attrs in page.tags:
        if tag == "img":
            with Image.open(io.BytesIO(base64.b64decode(attrs["src"].split(",")[1]))) as image:
                assert image.format == "PNG" and image.width > 600
            assert attrs["alt"]


def test_the_table_has_means_and_intervals(report):
    page = report()
    assert "52.0 50.0\u201354.0 28.0 26.0\u201330.0 16.0 14.0\u201318.0" in page.said


def test_names_and_values_are_escaped(report, config, make_pictures):
    config["method"]["name"] = "<script>alert(1)</script>"
    config["data"]["streams"]["train"]["path"] = '"><b>'
    rows = [{"stage": "<i>", "step": 1, "alarm": "<b>&"}]
    page = report(classes=("<b>", "$x", "\u732b"), settings=config, rows=rows)
    assert not {"script", "b>", "i"} & {tag for tag, _ in page.tags}
    assert "<script>" not in page.text and "<b>&" not in page.text and "stage <i>" not in page.text
    assert "<script>alert(1)</script>" in page.said and "stage <i>" in page.said
    assert "In the legend, class 2 is \u732b." in page.said  # the font of the figures cannot write it


def test_class_names_with_markup_reach_the_page_escaped(report):
    page = report(classes=("a", "b", "<b>\u732b</b>"))
    assert "class 2 is &lt;b&gt;\u732b&lt;/b&gt;" in page.text


@pytest.mark.parametrize("scores", [None, {"knn/top1": None, "lowshot_5/top1": None}])
def test_an_unlabelled_run_says_so_and_shows_health(report, make_results, make_pictures, scores):
    given = make_pictures()
    given["neighbours"] |= {"query_labels": np.full(4, -1), "neighbour_labels": np.full((4, 5), -1)}
    given["tsne"]["labels"] = np.full(60, -1)
    page = report(classes=(), pictures=given, results=make_results(None) | {"eval": scores})
    assert "cannot say how good the backbone is" in page.said and "Class assignments" in page.said
    assert "Evaluation images" not in page.said and "guessing" not in page.said
    assert "solid blue frame" not in page.said
    assert page.ids("section") == SECTIONS


def test_missing_pictures_and_files_leave_a_sentence(tmp_path):
    page = Page(write_report(tmp_path, {}, ()).read_text())
    assert page.ids("section") == SECTIONS and page.ids("figure") == []
    for words in ("results.json is missing.", "metrics.jsonl holds no numbers to plot.", "No health was logged",
                  "No nearest neighbours", "config.json could not be read"):  # fmt: skip
        assert words in page.said


def test_pictures_of_the_wrong_form_cost_a_sentence_and_not_the_report(report, make_pictures):
    given = make_pictures()
    given["clusters"]["maps"] = np.zeros((4, 4))
    del given["attention"]["maps"], given["neighbours"]["neighbour_labels"]
    page = report(pictures=given)
    assert "It could not be drawn: ValueError: cluster maps need the form [4, h, w], got (4, 4)." in page.said
    assert "It could not be drawn: KeyError: 'maps'." in page.said
    assert "the training images whose features are most similar" in page.said  # neighbours without labels have no frame
    assert "figure-clusters" not in page.ids("figure") and "figure-neighbours" in page.ids("figure")


@pytest.mark.parametrize(("channels", "words"), [(3, None), (5, "Of 5 channels the first three are shown")])
def test_the_caption_says_what_is_shown_of_many_channels(report, make_pictures, channels, words):
    page = report(pictures=make_pictures(channels))
    assert len(page.ids("figure")) == 12
    assert (words in page.said) if words else ("channels the first" not in page.said)


def test_a_collapse_is_named_in_the_verdict_and_with_its_knob(report, rows_of):
    page = report(rows=rows_of(health__target_entropy_patch=0.999))
    assert "The health section names one alarm" in page.said
    assert "--config.method.temperature.teacher_end=0.035" in page.said


def test_writing_again_replaces_the_page_and_leaves_nothing_else(report, tmp_path):
    report()
    first = (tmp_path / "report.html").read_text()
    report()
    assert (tmp_path / "report.html").read_text() == first  # and the same inputs give the same page
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.json", "figures", "metrics.jsonl", "report.html", "results.json"]


@pytest.fixture
def labelled_report(report, labelled_results, gated_config, gated_rows_of, make_pictures):
    """labelled_report(**changes of the folder) -> the parsed page of a labelled method."""

    def write(**changes):
        pictures = {name: make_pictures(3, evidence=True)[name] for name in ("gradcam", "neighbours", "tsne")}
        given = {"results": labelled_results(), "settings": gated_config, "rows": gated_rows_of(), "pictures": pictures}
        return report(**(given | changes))

    return write


def test_a_labelled_page_shows_what_it_owes_and_no_more(labelled_report):
    page = labelled_report()
    assert page.ids("section") == [
        n for n in HEADINGS if n not in ("lowshot", "continuation", "iterations", "robustness")
    ]
    sheets = ["gradcam", "neighbours", "tsne"]
    curves = ["loss", "validation", "gate", "alignment", "pretexts", "features", "schedule"]
    assert page.ids("figure") == [f"figure-{name}" for name in ("classes", *curves, *sheets)]
    for word in (
        "prototype",
        "ssignment",
        "entropy of the target",
        "No reconstructions",
        "Patch clusters",
        "Attention",
    ):
        assert word not in page.said
    assert "solid blue frame is a right prediction" in page.said and "vision transformer" not in page.said


def test_a_labelled_page_has_two_tables_and_every_class(labelled_report):
    page = labelled_report()
    assert page.said.index("own classifier chosen, step 300 last, step 400") < page.said.index(
        "frozen features trained"
    )
    assert "rarest third of classes 20.0 18.0\u201322.0 10.0 8.0\u201312.0" in page.said
    assert "hen 10 20.0" in page.said  # training images and accuracy, in the table of classes
    assert page.said.index("cat 100") < page.said.index("dog 40") < page.said.index("hen 10")
    assert "per class" not in page.said.split("Protocol")[-1]  # the protocol does not print every class again


def test_the_evidence_of_a_transformer_is_told_apart(labelled_report, gated_config):
    gated_config["backbone"]["kind"] = "vit"
    assert "The class token of a vision transformer leaves no trace" in labelled_report().said


def test_a_labelled_page_without_pictures_or_classes_says_so(labelled_report, labelled_results):
    results = labelled_results()
    del results["eval"]["accuracy/top1"]["protocol"]["per_class"]
    page = labelled_report(results=results, pictures={})
    assert "results.json does not hold the accuracy of each class." in page.said
    assert "No evidence maps" in page.said and "No attention maps" not in page.said


def test_label_free_scores_stand_below_the_findings_where_the_run_has_them(report, make_results):
    scores = {"rankme": 30.5, "alignment": 0.25, "distance": 1.5, "uniformity": -2.0, "lidar": None}
    health = {"trained": scores, "untrained": scores, "protocol": {"images": 100, "views": 4}}
    page = report(results=make_results({"knn/top1": 0.6}) | {"health": health})
    assert "effective rank (RankMe)" in page.said.split("Health")[-1] and "4 augmented views of each" in page.said
    assert "Views of an image lie together, images apart" in page.said
    assert "augmented views" not in report().said  # as of an older run
