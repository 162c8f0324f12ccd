"""Finished runs side by side: the verdict, the tables, the figures, and what is refused."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from gssl_jax.compare import main
from gssl_jax.report import comparison_figures
from gssl_jax.report.compared import read_compared, settings
from gssl_jax.report.comparison import write_comparison
from gssl_jax.report.sheet import GAP, LINE, cell_side
from gssl_jax.report.words import ClassScores
from gssl_jax.runs.archive import write_pictures
from tests.report.page import Page

CLASSES = ("cat", "dog", "hen")
FIGURES = ["figure-gradcam", "figure-classes", "figure-tsne"]


@pytest.fixture
def make_run(tmp_path, labelled_results, gated_config, make_pictures):
    """make_run(name, mode="learned", test="same", given=..., classes=..., **scores): the folder of a finished run with
    the scores of `labelled_results`, every interval +- 2 points; `given` None leaves pictures.npz out."""
    usual = make_pictures(3, evidence=True)
    usual = {name: usual[name] for name in ("gradcam", "tsne")}

    def make(name, mode="learned", test="same", given=usual, classes=CLASSES, change=None, **scores):
        folder = tmp_path / name
        folder.mkdir()
        config = json.loads(json.dumps(gated_config)) | {"seed": 3, "run": {"workers": len(name)}}
        config["method"]["gate"]["mode"] = mode
        results = labelled_results(**scores)
        results["run"]["data"]["eval_test"]["fingerprint"] = test
        if change is not None:
            change(results)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "results.json").write_text(json.dumps(results))
        if given is not None:
            write_pictures(folder / "pictures.npz", given, classes)
        return folder

    return make


@pytest.fixture
def compared(tmp_path):
    """compared(*folders) -> the parsed page and the verdict."""

    def write(*folders):
        path, judged = write_comparison([read_compared(folder.name, folder) for folder in folders], tmp_path / "out")
        assert path == tmp_path / "out" / "compare.html"
        return Page(path.read_text()), judged

    return write


def test_the_page_has_its_sections_and_comes_from_nowhere_else(make_run, compared):
    page, _ = compared(make_run("a"), make_run("b", "sum"))
    assert page.ids("section") == ["verdict", "table", "settings", "gradcam", "classes", "tsne"]
    assert page.ids("figure") == FIGURES
    assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[^\"]+", "", page.text))
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 3 and all(source.startswith("data:image/png;base64,") for source in sources)


def test_a_clear_gain_is_one(make_run, compared):
    """50 +- 2 against 60 +- 2 per cent: 52 lies below 58."""
    page, judged = compared(make_run("a"), make_run("b", accuracy__top1=0.6))
    assert (judged.tone, judged.badge) == ("good", "Clear gain")
    assert judged.headline == "b is right for 60.0 % of the test images, 10.0 points above a."
    assert "b 60.0 % (95 % interval 58.0 to 62.0) against a 50.0 % (95 % interval 48.0 to 52.0)." in page.said
    assert "more seeds" not in page.said and [bar.kind for bar in judged.bars] == ["pixels", "trained"]


def test_what_lies_within_the_intervals_is_not_called_better(make_run, compared):
    """50 +- 2 and 53 +- 2: 51 and 52 belong to both."""
    page, judged = compared(make_run("a"), make_run("b", accuracy__top1=0.53))
    assert (judged.tone, judged.badge) == ("unclear", "No clear difference")
    assert judged.headline.endswith("3.0 points above a: within the intervals, so these test images do not tell them "
                                    "apart.")  # fmt: skip
    assert "not to be told apart by these test images; repeat with more seeds" in page.said


def test_a_reference_that_is_best_is_said_to_be(make_run, compared):
    page, judged = compared(make_run("a", accuracy__top1=0.6), make_run("b"), make_run("c", accuracy__top1=0.4))
    assert (judged.tone, judged.badge) == ("none", "The first run is best")
    assert judged.headline == "a is right for 60.0 % of the test images, and no other run is above it."
    assert "a 60.0 % (95 % interval 58.0 to 62.0) against b 50.0 % (95 % interval 48.0 to 52.0)." in page.said
    assert "In points against a. Clearly below: b (−10.0) and c (−20.0)." in page.said


def test_a_best_run_that_only_beats_the_first_says_from_whom_it_is_not_told_apart(make_run, compared):
    runs = [make_run(name, accuracy__top1=value) for name, value in (("a", 0.5), ("b", 0.58), ("c", 0.6), ("d", 0.45))]
    page, judged = compared(*runs)
    assert judged.badge == "Clear gain" and judged.headline.startswith("c is right")
    assert "c 60.0 % (95 % interval 58.0 to 62.0) against a 50.0 %" in page.said
    assert "Clearly above: b (+8.0) and c (+10.0). Clearly below: d (−5.0)." in page.said
    assert "These test images do not tell c from b either." in page.said and "more seeds" in page.said


def test_without_intervals_nothing_is_claimed(make_run, compared):
    def bare(results):
        results["eval"]["accuracy/top1"] |= {"low": None, "high": None}

    _, judged = compared(make_run("a"), make_run("b", accuracy__top1=0.6, change=bare))
    assert (judged.tone, judged.badge) == ("unclear", "Differences without an interval")
    assert judged.headline.endswith("10.0 points above a, without intervals to judge it by.")


def test_the_rarest_classes_and_other_clear_differences_are_named(make_run, compared):
    page, _ = compared(make_run("a"), make_run("b", accuracy__tail=0.3, knn__top1=0.35))
    assert "In the rarest third of classes b is best with 30.0 %, 10.0 points above a." in page.said
    others = "Clearly above: rarest third of classes (+10.0). Clearly below: k-NN (−10.0)."
    assert f"Other measures of b against a. {others}" in page.said


def test_other_test_images_spoil_the_comparison(make_run, compared):
    page, judged = compared(make_run("a", test="one"), make_run("b", test="two", accuracy__top1=0.9))
    assert judged.tone == "bad" and "judged on different test images" in judged.headline
    assert "The panels do not hold the same images." in page.said


def test_a_measure_that_all_have_decides(make_run, compared):
    """The first has no classifier of its own: linear comes before k-NN."""

    def frozen(results):
        kept = ("knn/top1", "linear/top1")
        results["eval"] = {key: one for key, one in results["eval"].items() if key in kept} | {"lowshot_1/top1": None}

    runs = make_run("a", change=frozen), make_run("b", linear__top1=0.58, accuracy__top1=0.1)
    page, judged = compared(*runs)
    assert judged.headline == "With a linear classifier on all labels, b reaches 58.0 %, 10.0 points above a."
    assert "accuracy – 10.0 8.0–12.0 mean over classes –" in page.said  # no difference from what is not there


def test_runs_without_a_common_measure(make_run, compared):
    def only(key):
        return lambda results: results.update(eval={key: results["eval"][key]})

    page, judged = compared(make_run("a", change=only("knn/top1")), make_run("b", change=only("linear/top1")))
    assert judged.badge == "Nothing to compare" and "k-NN 45.0 43.0–47.0 –" in page.said
    page, judged = compared(*(make_run(name, change=lambda results: results.update(eval=None)) for name in "cd"))
    assert judged.badge == "Nothing to compare" and "the images came without labels" in page.said


def test_the_table_has_every_measure_of_every_run(make_run, compared):
    """Bold where intervals of +- 2 points do not overlap: at 10 points, not at 3."""
    page, _ = compared(make_run("a"), make_run("b", accuracy__tail=0.3, knn__top1=0.48))
    assert "rarest third of classes 20.0 18.0–22.0 30.0 28.0–32.0 +10.0" in page.said
    assert "k-NN 45.0 43.0–47.0 48.0 46.0–50.0 +3.0" in page.said
    assert "<small><b>+10.0</b></small>" in page.text and "<small>+3.0</small>" in page.text


def test_the_last_step_has_a_table_where_validation_chose_another(make_run, compared):
    """`a` chose step 300 of 400 and has 47 % at 400; `b` chose 400 itself, with 50 %."""

    def whole(results):
        results["eval"] = {key: one for key, one in results["eval"].items() if not key.startswith("last/")}
        results["run"]["selected_step"] = 400

    page, _ = compared(make_run("a"), make_run("b", change=whole))
    last = page.said.split("The same at the last step")[1]
    assert "accuracy 47.0 45.0–49.0 50.0 48.0–52.0 +3.0" in last.split("frozen features")[0]
    page, _ = compared(*(make_run(name, change=whole) for name in "cd"))
    assert "last step" not in page.said


def test_groups_of_other_classes_do_not_compare(make_run, compared):
    def members(*names):
        return lambda results: results["eval"]["accuracy/tail"]["protocol"].update(classes=list(names))

    page, _ = compared(make_run("a", change=members("hen")), make_run("b", accuracy__tail=0.9, change=members("cat")))
    assert "not made of the same classes" in page.said and "In the rarest third" not in page.said
    runs = [make_run(name, change=members("hen")) for name in "cd"]
    page, _ = compared(*runs)
    assert "not made of the same classes" not in page.said and "In the rarest third" in page.said
    page, _ = compared(*runs, make_run("e", accuracy__tail=None))
    assert "not made of the same classes" not in page.said and "In the rarest third" not in page.said


def test_settings_that_differ_are_named_and_those_of_the_machine_are_not(make_run, compared):
    """`run.workers` is 1, 2 and 3, and changes no result."""
    page, _ = compared(make_run("a"), make_run("bb", "sum"), make_run("ccc", "sum"))
    assert "The runs differ in one setting: method.gate.mode." in page.said
    assert "method. gate. mode learned sum sum" in page.said and "workers" not in page.said


def test_values_are_told_apart_in_words(make_run):
    runs = [read_compared(name, make_run(name)) for name in "abc"]
    for run, many in zip(runs, ([], list(range(8)), [*range(6), 0, 7]), strict=True):
        run.files.config["optim"] = {"milestones": many}
    runs[2].files.config["optim"]["warmup"] = 0.5
    assert settings(runs) == [
        ("optim.milestones", ("none", "8 values from 0 to 7", "8 values from 0 to 7")),
        ("optim.warmup", ("–", "–", "0.5")),
    ]
    assert settings(runs[1:])[0] == ("optim.milestones", ("[0, 1, 2, 3, 4, 5, 6, 7]", "[0, 1, 2, 3, 4, 5, 0, 7]"))


def test_runs_of_the_same_settings_say_so(make_run, compared):
    page, _ = compared(make_run("a"), make_run("b"))
    assert (
        "The runs have the same settings." in page.said and "No setting that may change results differs." in page.said
    )


def opened(path):
    with Image.open(path) as image:
        image.load()
        return np.asarray(image).astype(int)


def evidence(heat, predicted):
    """Grad-CAM of one grey image of class 0, the same evidence everywhere."""
    grey = np.full((1, 16, 16, 3), 0.5)
    return {"images": grey, "maps": np.full((1, 16, 16), heat), "predicted": np.array([predicted]),
            "labels": np.array([0])}  # fmt: skip


def test_the_overlays_of_each_run_stand_in_its_column(tmp_path):
    """The image is at half; without evidence its overlay is at seven tenths of that, with evidence brighter. A wrong
    prediction has white gaps in its frame."""
    found = {"a": evidence(0.0, 0), "b": evidence(1.0, 1)}
    image = opened(comparison_figures.draw_evidence(found, CLASSES, tmp_path))
    side = cell_side(16)
    top = round(LINE * side) + GAP // 2
    assert image.shape[1] == 3 * side + 2 * GAP
    middles = [image[top + side // 2, column * (side + GAP) + side // 2, :3] for column in range(3)]
    np.testing.assert_allclose(middles[0], 127.5, atol=1)
    np.testing.assert_allclose(middles[1], 0.7 * 127.5, atol=2)
    assert middles[2][0] > 150
    edges = [image[top + 3, c * (side + GAP) : c * (side + GAP) + side, :3] for c in (1, 2)]
    assert [bool((edge.min(axis=1) > 220).mean() > 0.2) for edge in edges] == [False, True]


def test_right_predictions_are_counted(make_run, compared):
    """The first is right twice, the second never."""
    two = np.arange(2)
    one = {"images": np.zeros((2, 16, 16, 3)), "maps": np.zeros((2, 16, 16)), "predicted": two, "labels": two}
    runs = make_run("a", given={"gradcam": one}), make_run("b", given={"gradcam": one | {"predicted": 1 - two}})
    page, _ = compared(*runs)
    assert "Right here, of 2: a 2 and b 0." in page.said
    assert "a has no map of its test images." in page.said and "figure-tsne" not in page.ids("figure")


@pytest.mark.parametrize("key", ["images", "labels"])
def test_other_images_are_not_paired(make_run, make_pictures, compared, key):
    other = make_pictures(3, evidence=True)
    other["gradcam"][key] = other["gradcam"][key][::-1]
    page, _ = compared(make_run("a"), make_run("b"), make_run("c", given=other))
    assert page.ids("figure") == FIGURES[1:]
    assert "c kept other test images than a, so no overlays are laid side by side." in page.said


def test_runs_without_pictures_are_named_and_the_others_drawn(make_run, compared):
    broken = make_run("d")
    (broken / "pictures.npz").write_bytes(b"PK")
    page, _ = compared(make_run("a"), make_run("b", given=None), make_run("c"), broken)
    assert page.ids("figure") == FIGURES and "Right here, of 4: a 3 and c 3." in page.said
    assert page.said.count("b has no pictures.npz: it was made before runs kept one.") == 2
    assert page.said.count("The pictures.npz of d could not be read.") == 2


def test_one_run_with_pictures_has_nobody_beside_it(make_run, compared):
    page, _ = compared(make_run("a", given=None), make_run("b", accuracy__top1=0.6))
    assert page.ids("figure") == ["figure-classes"] and "10.0 points above a" in page.said
    assert "Fewer than two runs have what belongs here" in page.said


def test_other_classes_have_no_common_legend(make_run, compared):
    def renamed(results):
        results["eval"]["accuracy/top1"]["protocol"]["per_class"] = {"x": 0.8, "y": 0.5, "z": 0.2}

    page, _ = compared(make_run("a"), make_run("b", classes=("x", "y", "z"), change=renamed))
    assert page.ids("figure") == [] and "The runs do not share their classes." in page.said
    assert page.said.count("b knows other classes than a") == 2


def test_pictures_of_the_wrong_form_cost_a_sentence(make_run, make_pictures, compared):
    wrong = make_pictures(3, evidence=True)
    wrong["gradcam"]["maps"] = np.zeros((4, 8, 8))
    del wrong["tsne"]["points"]
    page, _ = compared(make_run("a"), make_run("b", given=wrong))
    assert page.ids("figure") == ["figure-classes"] and "It could not be drawn: KeyError: 'points'." in page.said
    assert "It could not be drawn: ValueError: Grad-CAM maps need the form [4, 16, 16], got (4, 8, 8)." in page.said


def test_maps_of_the_same_images_say_so(make_run, make_pictures, compared):
    page, _ = compared(make_run("a"), make_run("b"))
    assert "The same 60 test images in all panels." in page.said
    fewer = make_pictures(3, evidence=True)
    fewer["tsne"] = {"points": np.zeros((6, 2)), "labels": np.arange(6) % 3}
    page, _ = compared(make_run("c"), make_run("d", given=fewer))
    assert "The panels do not hold the same images." in page.said and "figure-tsne" in page.ids("figure")


@pytest.mark.parametrize(("runs", "shape"), [(2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (8, (3, 3))])
def test_panels_stand_in_a_grid(tmp_path, runs, shape):
    """A panel is 3.1 inches at 150 points; three classes take one line of the legend, .2 inches."""
    rng = np.random.default_rng(0)
    found = {f"_{k} $": {"points": rng.normal(size=(9, 2)), "labels": np.arange(9) % 3} for k in range(runs)}
    image = opened(comparison_figures.draw_maps(found, CLASSES, tmp_path))
    assert image.shape[:2] == (round((3.1 * shape[0] + 0.2) * 150), round(3.1 * shape[1] * 150))


@pytest.mark.parametrize(("classes", "images"), [(3, (90, 50, 10)), (3, (50, 50, 50)), (100, None)])
def test_classes_of_all_runs_share_a_chart(tmp_path, classes, images):
    """The first run is blue, the second orange; a class without test images is left out. Later classes are recognised
    better, so the left end is low where training images order them, with borders of groups in grey, and else high."""
    images = images or tuple(range(500, 400, -1))
    names = tuple(f"$^${k}" for k in range(classes))
    found = {
        "a": ClassScores(names, (None, *np.linspace(0.1, 0.9, classes - 1)), images),
        "_b": ClassScores(names, (None, *np.linspace(0.2, 0.8, classes - 1)), images),
    }
    image = opened(comparison_figures.draw_class_scores(found, tmp_path))
    image = image[: int(0.75 * len(image)), 100:, :3]  # without the names and numbers of the axes
    blue, orange, grey = (
        np.argwhere(np.abs(image - colour).sum(axis=-1) < 60)
        for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0x8A, 0x8F, 0x98))
    )
    assert len(blue) > 50 and len(orange) > 50
    uneven = images[0] >= 2 * images[-1]
    low = blue[np.argmin(blue[:, 1]), 0] > len(image) / 2
    border = np.bincount(grey[:, 1], minlength=1).max() > 60  # pixels above each other
    assert (low, border) == (uneven, uneven)
    nothing = ClassScores(names, (None,) * classes, images)
    with pytest.raises(ValueError, match="no class has test images"):
        comparison_figures.draw_class_scores({"a": nothing, "b": nothing}, tmp_path)


def test_names_without_room_become_numbers():
    assert comparison_figures.short_names(["vanilla", "gated"]) == ["vanilla", "gated"]
    assert comparison_figures.short_names(["supervised-1", "gated"]) == ["supervised…", "gated"]
    assert comparison_figures.short_names(["long_tail-sum", "long_tail-none"]) == ["run 1", "run 2"]
    assert comparison_figures.short_names(["a", "猫"]) == ["run 1", "run 2"]


def test_names_are_escaped(make_run, tmp_path, capsys):
    folder = make_run("a")
    assert main(["compare", f"<b>&{'x' * 90}={folder}", f"$^$={folder}", f"--out={tmp_path / 'out'}"]) == 0
    page = Page((tmp_path / "out" / "compare.html").read_text())
    assert "<b>&x" not in page.text and "<b>&xx" in page.said and "$^$" in page.said
    assert "The runs from left to right: <b>&xx" in page.said


def test_the_command_writes_beside_the_first_run(make_run, tmp_path, capsys, monkeypatch):
    make_run("a"), make_run("x=1", accuracy__top1=0.6)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "a", "gated=x=1", "x=1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("gated is right for 60.0 % of the test images, 10.0 points above a.\n")
    assert f"comparison: {tmp_path / 'compare' / 'compare.html'}\n" in printed
    assert sorted(path.name for path in (tmp_path / "compare").iterdir()) == ["compare.html", "figures"]
    assert main(["compare", "a", "x=1", "--out", "there", "--debug"]) == 0 and (tmp_path / "there").is_dir()


@pytest.mark.parametrize("argv", [["compare", "--help"], ["compare", "-h", "--nonsense"], ["compare"]])
def test_help_prints_the_usage(capsys, argv):
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("usage: python -m gssl_jax.compare RUN RUN")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a"], "at least two runs"),
        (["a", "a"], "two runs are called 'a': tell them apart by NAME=a"),
        (["a", "b="], "'b=' names no folder"),
        (["a", "none"], "none: there is no such folder"),
        (["a", "empty"], "empty is not a run folder: it has no config.json"),
        (["a", "going"], "going is not finished: it has no results.json; the command that began the run"),
        (["a", "torn"], "torn: results.json could not be read as JSON"),
        (["a", "b", "--uot=x"], "unknown flag '--uot'; did you mean '--out'?"),
        (["a", "b", "--out"], "--out needs a folder"),
        (["a", "b", "--out=b"], "--out=b is a run folder"),
        (["a", "b", "--out=a/config.json"], "a/config.json cannot be written"),
        ([f"{k}=a" for k in range(9)], "9 runs do not fit side by side: give at most 8"),
    ],
)
def test_refused_in_one_line(make_run, tmp_path, capsys, monkeypatch, arguments, words):
    for name in ("a", "b", "going", "torn"):
        make_run(name)
    (tmp_path / "going" / "results.json").unlink()
    (tmp_path / "torn" / "results.json").write_text('{"eval": ')
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and words in said, said
    assert not (tmp_path / "compare").exists()


def test_attention_and_colours_of_all_runs_stand_side_by_side(make_run, compared, make_pictures):
    given = make_pictures(3)
    both = {name: given[name] for name in ("attention", "pca", "tsne")}
    page, _ = compared(make_run("a", given=both), make_run("b", given=both))
    assert page.ids("figure") == ["figure-attention", "figure-pca", "figure-classes", "figure-tsne"]
    assert "The same test images for all runs." in page.said and "has no attention maps" not in page.said
    without = {name: given[name] for name in ("pca", "tsne")}
    moved = {**both, "pca": {**given["pca"], "images": 1.0 - given["pca"]["images"]}}
    page, _ = compared(make_run("c", given=both), make_run("d", given=without), make_run("e", given=moved))
    assert "d has no attention maps: its backbone has no attention." in page.said
    assert "e kept other test images than c, so no maps are laid side by side." in page.said
    assert page.ids("figure") == ["figure-attention", "figure-classes", "figure-tsne"]


def test_looks_of_each_run_have_a_column(tmp_path, make_pictures):
    """The second run's first head and mean are dark but for one patch; the first run's colours stay its own."""
    given = make_pictures(3)
    maps = np.zeros((4, 2, 4, 4))
    maps[:, :, 0, 1] = 1.0
    found = {"a": given["attention"], "b": {**given["attention"], "maps": maps}}
    with Image.open(comparison_figures.draw_looks(found, "attention", tmp_path)) as image:
        drawn = np.asarray(image)
    side = cell_side(16)
    top, left = GAP // 2 + round(LINE * side), 2 * (side + GAP)
    patches = drawn[top : top + side, left : left + side, :3].reshape(4, side // 4, 4, side // 4, 3).mean((1, 3, 4))
    assert patches.argmax() == 1 and (np.sort(patches.ravel())[:-1] < 0.1 * patches.max()).all()
    colours = np.zeros((4, 4, 4, 3))
    colours[..., 1] = 1.0
    found = {"a": given["pca"], "b": {**given["pca"], "maps": colours}}
    with Image.open(comparison_figures.draw_looks(found, "pca", tmp_path)) as image:
        drawn = np.asarray(image)
    assert (drawn[top : top + side, left : left + side, :3] == [0, 255, 0]).all()
    with pytest.raises(ValueError, match="attention maps need the form"):
        comparison_figures.draw_looks({"a": {**given["attention"], "maps": np.zeros((4, 4))}}, "attention", tmp_path)
