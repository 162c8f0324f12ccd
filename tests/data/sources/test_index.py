"""Index files: labels of every form, splits, masks, and every line that cannot be meant is named."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from gssl_jax.data.sources import kind_of, open_source
from gssl_jax.errors import UserError

DATA = ConfigDict({"seed": 0, "holdout": 0.25})


def opened(file, split="train", source="index"):
    return open_source(ConfigDict({"source": source, "path": str(file)}), split, DATA)


def pictures(root, *names):
    for grey, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 5), 10 * grey).save(root / name)


def names(source):
    return [source.describe(i).rpartition("/")[2] for i in range(len(source))]


def labels(source):
    return [source.label(i) for i in range(len(source))]


def test_classes_by_name_and_splits(tmp_path):
    pictures(tmp_path, "in/a.png", "b.png", "c.png", "d.png")
    file = tmp_path / "index.csv"
    file.write_text("File,Class,Split\nin/a.png,dog,train\nb.png,cat,valid\n\nc.png,,training\nd.png,eel,test\n")
    train, pretrain, test = (opened(file, split) for split in ("train", "pretrain", "test"))
    assert names(train) == ["a.png", "c.png"] and names(pretrain) == ["a.png", "b.png", "c.png"]
    assert train.classes == test.classes == ("cat", "dog", "eel") and not train.multilabel
    assert (labels(train), labels(pretrain), labels(test)) == ([1, -1], [1, 0, -1], [2])
    assert (train[0]["image"] == 0).all() and train[1]["image"].shape == (5, 6, 1) and train[1]["index"] == 1
    assert pretrain.payload(1) == (tmp_path / "b.png").read_bytes()
    assert train.fingerprint() != pretrain.fingerprint() == opened(file, "pretrain").fingerprint()


def test_classes_by_number_in_tab_separated_values_with_a_hold_out(tmp_path):
    files = [f"{i}.png" for i in range(8)]
    pictures(tmp_path, *files)
    file = tmp_path / "index.tsv"
    file.write_text("path\tlabel\n" + "".join(f"{name}\t{i % 2 * 10}\n" for i, name in enumerate(files)))
    train, test = opened(file), opened(file, "test")
    assert train.classes == tuple(map(str, range(11)))
    assert sorted(labels(test)) == [0, 10] and sorted(names(train) + names(test)) == files  # a quarter of four, twice


def test_several_labels_as_columns_as_text_and_as_json(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    columns = tmp_path / "columns.csv"
    columns.write_text("image,mass,nodule\na.png,1,0\nb.png,,1\n")
    text = tmp_path / "text.csv"
    text.write_text("image,labels,age\na.png,mass,31\nb.png,nodule | mass,7\n")
    lines = tmp_path / "lines.jsonl"
    rows = [
        {"image": "a.png", "labels": ["mass"]},
        {"image": "b.png", "labels": None},
        {"image": "c.png", "labels": []},
    ]
    lines.write_text("\n".join(map(json.dumps, rows)))
    found = [opened(file, "pretrain") for file in (columns, text, lines)]
    held = [opened(file, "test") for file in (columns, text, lines)]
    assert all(one.multilabel for one in found)
    by_name = [
        {name: label.tolist() for part in (one, other) for name, label in zip(names(part), labels(part), strict=True)}
        for one, other in zip(found, held, strict=True)
    ]
    assert found[0].classes == found[1].classes == ("mass", "nodule") and found[2].classes == ("mass",)
    assert by_name[0]["a.png"] == [1, 0] and np.isnan(by_name[0]["b.png"][0]) and by_name[0]["b.png"][1] == 1
    assert by_name[1] == {"a.png": [1, 0], "b.png": [1, 1]}
    assert by_name[2]["a.png"] == [1] and np.isnan(by_name[2]["b.png"]).all() and by_name[2]["c.png"] == [0]


def test_columns_of_something_else_are_no_labels(tmp_path):
    pictures(tmp_path, "a.png")
    file = tmp_path / "index.csv"
    file.write_text("path,age,smoker\na.png,63,1\n")
    source = opened(file)
    assert source.classes == () and labels(source) == [-1] and len(opened(file, "test")) == 0


def test_masks(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    for name, value in (("m/a.png", 2), ("m/b.png", 255)):
        (tmp_path / "m").mkdir(exist_ok=True)
        Image.new("L", (6, 5), value).save(tmp_path / name)
    file = tmp_path / "index.csv"
    file.write_text("path,mask,split\na.png,m/a.png,train\nb.png,m/b.png,test\n")
    train, test = opened(file), opened(file, "test")
    assert train.parts == test.parts == ("0", "1", "2") and train.classes == ()
    assert (train[0]["segmentation"] == 2).all() and (test[0]["segmentation"] == 255).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "name,label\na.png,1\n",
            "no column of image paths; it has name, label, and expected is one of path, file",
        ),
        ("path,image\na.png,b.png\n", "has the columns 'path' and 'image' for the path"),
        ("path,label,labels\na.png,1,1\n", "'label' and 'labels': one class an image or several"),
        ("path,label\na.png,1\na.png,2\n", r"line 3: a.png stands at .*index.csv line 2 too"),
        ("path,label\n,1\n", "line 2: the column 'path' is empty"),
        ("path,label\na.png,1,7\n", "line 2 has 3 values and the first line names 2 columns"),
        ("path,split\na.png,most\n", "line 2: the split 'most' is none of train, val and test"),
        ("path,label\ngone.png,1\n", "there is no .*gone.png; paths are relative to"),
        ("path,label\n", "names no image"),
        ("path,label\na.png,1\n./a.png,2\n", r"line 3: a.png stands at .* line 2 too"),
        (
            "path,x,y\n" + "".join(f"{i}.png,0,1\n" for i in range(9)) + "a.png,1,7\n",
            "line 11: y is '7', and nearly all",
        ),
    ],
)
def test_lines_that_cannot_be_meant(tmp_path, text, said):
    pictures(tmp_path, "a.png", "b.png")
    file = tmp_path / "index.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        opened(file)


def test_files_that_are_no_index(tmp_path):
    with pytest.raises(UserError, match="no index file"):
        opened(tmp_path / "none.csv")
    (tmp_path / "a.jsonl").write_text('{"path": "a.png"}\n[1]\n')
    with pytest.raises(UserError, match="a.jsonl line 2 is no JSON object"):
        opened(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text("{path}\n")
    with pytest.raises(UserError, match="a.jsonl line 1 is not JSON"):
        opened(tmp_path / "a.jsonl")
    (tmp_path / "a.xls").write_text("")
    with pytest.raises(UserError, match="an index ends in one of .csv"):
        opened(tmp_path / "a.xls")


def test_a_folder_preset_takes_an_index_too(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    file = tmp_path / "index.csv"
    file.write_text("path,label\na.png,0\nb.png,1\n")
    assert kind_of(str(file)) == "index" and kind_of(str(tmp_path)) == "folder"
    assert opened(file, source="folder").fingerprint() == opened(file).fingerprint()
