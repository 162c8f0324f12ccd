"""The page and the table of backbones side by side: what is said follows from the paired differences."""

from __future__ import annotations

import re

import numpy as np
import pytest
from rich.console import Console

from gssl_jax.report.judged import against, table_of, verdict_of, write_judged
from gssl_jax.report.words import comparison_table
from gssl_jax.runs.archive import write_pictures


def entry(value, half=0.05, kind="t-draws"):
    return {"value": value, "low": value - half, "high": value + half, "n": 20, "protocol": {"feature": "feat"},
            "interval": kind}  # fmt: skip


def difference(value, half):
    return {"value": value, "low": value - half, "high": value + half, "n": 20, "interval": "paired-t-draws"}


def one(kind, **more):
    images = {"image_size": 32, "channels": 3, "mean": [0.5], "std": [0.2], "contrast_normalise": False, "resize": 36}
    facts = {"kind": kind, "network": "ViT, patch 4", "parameters": 1234567, "path": "w.pth", "digest": "d" * 64}
    return {**facts, "images": images, "notes": [], "unreadable_images": 0, "pictures": "", **more}


def results(paired=0.01, ours=0.52):
    """Ours is 2 points above theirs, with intervals of 5 on each: only the pairs can tell them apart."""
    return {
        "schema": 1,
        "eval": {"lowshot_5/top1": entry(ours), "knn/top1": entry(0.6)},
        "controls": {"theirs": {"lowshot_5/top1": entry(0.5), "knn/top1": entry(0.7)}},
        "differences": {"theirs": {"lowshot_5/top1": difference(ours - 0.5, paired)}},
        "run": {
            "backbones": {"mine": one("run", step=8), "theirs": one("weights", notes=["layout timm"])},
            "device": "1 x cpu",
            "versions": {"jax": "9"},
            "data": {
                part: {"name": f"photos/{part}", "images": 9, "classes": 3, "fingerprint": "f" * 64}
                for part in ("eval_train", "eval_test")
            },
        },
    }


def verdict(found):
    return verdict_of(found, comparison_table(found), list(found["run"]["backbones"]))


@pytest.mark.parametrize(
    ("found", "tone", "said"),
    [
        (results(), "good", "At 5 images per class, mine reaches 52.0 %, 2.0 points above theirs."),
        (results(paired=0.03), "unclear", "2.0 points above theirs: these images do not tell them apart."),
        (results(ours=0.48), "bad", "mine reaches 48.0 %, 2.0 points below theirs."),
        (results() | {"differences": {}}, "unclear", "these images do not tell them apart."),
        (results() | {"controls": {"theirs": {}}}, "none", "No measure is there for all of these backbones"),
    ],
)
def test_the_verdict_follows_the_pairs(found, tone, said):
    judged = verdict(found)
    assert judged.tone == tone and said in judged.headline
    assert ("saw other images" in " ".join(judged.sentences)) == (not found["differences"])


def test_without_a_pair_intervals_decide():
    """k-NN has none: 60 +- 5 against 70 +- 5 just touch, 60 against 80 do not."""
    found = results()
    rows = {row.key: row for row in comparison_table(found)}
    assert against(found, rows["lowshot_5/top1"], "theirs") == (2.0, "above")
    assert against(found, rows["knn/top1"], "theirs") == (-10.0, "unclear")
    found["controls"]["theirs"]["knn/top1"] = entry(0.8)
    rows = {row.key: row for row in comparison_table(found)}
    assert against(found, rows["knn/top1"], "theirs") == (-20.0, "below")


def test_the_best_of_several_is_what_the_first_is_compared_with():
    found = results()
    found["controls"]["best"] = {"lowshot_5/top1": entry(0.9)}
    found["run"]["backbones"]["best"] = one("weights")
    judged = verdict(found)
    assert judged.badge == "best is better" and "38.0 points below best, the best of the others." in judged.headline
    assert [bar.who for bar in judged.bars] == ["mine", "theirs", "best"]


def test_one_backbone_alone():
    found = results() | {"controls": {}, "differences": {}}
    del found["run"]["backbones"]["theirs"]
    assert verdict(found).headline == "At 5 images per class, mine reaches 52.0 %."


def test_the_console_has_a_column_for_each():
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table_of(results()))
    lines = console.export_text().splitlines()
    console.file.close()
    assert any(re.search(r"frozen features\W+mine\W+theirs", line) for line in lines)
    assert any(re.search(r"5 images per class\W+52\.0\W+50\.0", line) for line in lines)
    assert any(re.search(r"47\.0–57\.0\W+45\.0–55\.0", line) for line in lines)


def test_the_page(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.random((3, 8, 8, 3)).astype(np.float32)
    labels = np.array([0, 1, 2])
    kept = {"neighbours": {"queries": images, "neighbours": np.stack([images] * 2, 1), "query_labels": labels,
                           "neighbour_labels": np.stack([labels] * 2, 1)},
            "tsne": {"points": rng.random((3, 2)), "labels": labels}}  # fmt: skip
    write_pictures(tmp_path / "p.npz", kept, ("a", "b", "c"))
    found = results()
    for name in ("mine", "theirs"):
        found["run"]["backbones"][name]["pictures"] = "p.npz"
    found["health"] = {"theirs": {"rankme": 12.34}, "protocol": {"images": 9, "views": 2}}
    page, judged = write_judged(found, tmp_path)
    text = page.read_text()
    assert judged.headline.replace(" %", "&nbsp;%") in text
    assert "<b>+2.0</b><small>+1.0 to +3.0</small>" in text and "mine − theirs" in text
    assert "Neighbours by mine" in text and text.count("data:image/png") == 3
    assert "layout timm" in text and "1,234,567 parameters" in text and "from a shorter side of 36, 3 channels" in text
    assert "effective rank (RankMe)" in text and "<td>12.3</td>" in text and "9 training images" in text
    assert "photos/eval_test" in text and (tmp_path / "figures" / "tsne.png").is_file()
