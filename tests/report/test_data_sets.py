"""`dataset inspect` and `dataset prepare` as a user meets them."""

import json

import numpy as np
import pytest
from PIL import Image

from gssl_jax.dataset import main
from gssl_jax.report import data_sets


@pytest.fixture
def folder(tmp_path):
    """Two classes: a copy of one training image to test on, another smaller, one stored in colour and grey, one cut."""
    draw = np.random.default_rng(0)
    soft = [np.kron(draw.integers(0, 256, (6, 7)), np.ones((8, 8))).astype(np.uint8) for _ in range(5)]

    def save(name, pixels, **options):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / name, **options)

    save("train/cat/0.png", soft[0])
    save("train/cat/1.png", soft[1])
    save("train/dog/2.png", np.repeat(soft[2][:, :, None], 3, axis=2))
    save("train/dog/2 small.png", np.array(Image.fromarray(soft[2]).resize((28, 24), Image.Resampling.BOX)))
    save("test/cat/copy.png", soft[0])
    save("test/cat/4.jpg", soft[4])
    cut = tmp_path / "in" / "train" / "dog" / "cut.jpg"
    cut.write_bytes((tmp_path / "in" / "test" / "cat" / "4.jpg").read_bytes()[:200])
    return tmp_path / "in"


def run(capsys, *flags):
    code = main(["dataset", *map(str, flags)])
    said = capsys.readouterr()
    return code, " ".join(said.out.split()), " ".join(said.err.split())


def test_inspect_names_leaks_copies_broken_files_and_classes(capsys, folder, tmp_path):
    out, numbers = tmp_path / "out", tmp_path / "found.json"
    code, said, _ = run(capsys, "inspect", folder, f"--out={out}", f"--json={numbers}")
    assert code == 0
    assert "LEAK: 1 group(s) of images that have the same pixels lie in more than one split" in said
    assert "0.png (train)" in said and "copy.png (test)" in said
    assert "1 group(s) of images look the same" in said and "2 small.png" in said
    assert "unreadable in train: " in said and "cut.jpg" in said
    assert "2 class(es) have at most 5 images to train on: cat, dog" in said
    assert "1 class(es) have no test image, their accuracy cannot be told: dog" in said
    found = json.loads(numbers.read_text())
    assert found["splits"]["train"]["labels"] == {"cat": 2, "dog": 2} and found["splits"]["train"]["images"] == 5
    assert {shape["channels"]: shape["images"] for shape in found["splits"]["test"]["shapes"]} == {1: 2}
    with Image.open(out / "train.png") as sheet:
        assert sheet.size == (12 * 100 + 4, 104)


def test_prepare_then_read_and_a_second_time_nothing_is_made(capsys, folder, tmp_path):
    out = tmp_path / "out"
    code, said, _ = run(capsys, "prepare", folder, f"--out={out}", "--side=20", "--shards=2", "--max_broken=0.3")
    assert code == 0 and "4 shards made, 0 were there, of 4 in all" in said and "cut.jpg" in said
    assert "0 shards made, 4 were there" in run(
        capsys, "prepare", folder, f"--out={out}", "--side=20", "--shards=2", "--max_broken=0.3"
    )[1]  # fmt: skip
    code, said, _ = run(capsys, "inspect", out, f"--out={tmp_path / 'sheets'}")
    assert code == 0 and "train 5 20 - 20 - 2" in said


def test_jobs_of_an_array_leave_the_manifest_to_the_last(capsys, folder, tmp_path):
    flags = ("prepare", folder, f"--out={tmp_path}/out", "--shards=2", "--max_broken=0.3")
    assert "written by the job that finds all of them" in run(capsys, *flags, "--shard=1/2")[1]
    assert "manifest.json read it with :folder,path=" in run(capsys, *flags, "--shard=0/2")[1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("prepare", "DIR"), "prepare needs --out=DIR"),
        (("prepare", "DIR", "--out=OUT", "--shard=2/2"), "--shard=2/2: give I/N, the I-th of N jobs, from 0/N"),
        (("prepare", "DIR", "--out=OUT", "--side=x"), "--side=x: give a whole number"),
        (("prepare", "DIR", "--out=OUT", "--max_broken=0.01"), "1 images of train cannot be read, 1 are allowed"),
        (("prepare", "DIR", "--sied=3"), "--sied"),
        (("inspect",), "inspect takes one data set and was given 0"),
        (("inspect", "foldr:DIR"), "foldr"),
        (("inspect", "DIR", "--holdout=2"), "--holdout=2: give a share"),
        (("inspect", "nowhere"), "no folder 'nowhere'"),
    ],
)
def test_what_is_refused(capsys, folder, tmp_path, flags, said):
    if "--max_broken=0.01" in flags:  # a second one
        (folder / "train" / "dog" / "empty.png").write_bytes(b"")
        said = said.replace("1 images", "2 images")
    words = [one.replace("DIR", str(folder)).replace("OUT", str(tmp_path / "out")) for one in flags]
    code, _, error = run(capsys, *words)
    assert code == 2 and said in error


def test_a_long_tail_of_classes_is_cut_in_the_middle():
    found = data_sets.inspection.Found({}, tuple(f"c{i:02d}" for i in range(30)), False, [], [])
    assert data_sets.class_table(found).row_count == data_sets.CLASSES_SHOWN + 1
