"""Where a backbone comes from, in words, from a lineage written by hand."""

import json

import pytest

from gssl_jax.report.chains import chain_list, chain_of, chain_words, last_method
from gssl_jax.report.html import write_report
from gssl_jax.report.reading import Metrics, RunFiles
from tests.report.page import Page

BASE = {
    "stage": "base",
    "data": "photos/a",
    "steps": 5000,
    "parent": {"file": "w/<r>.safetensors", "sha256": "ab" * 32},
}
TARGET = {
    "stage": "target",
    "data": "birds/b",
    "steps": 50,
    "parent": {"stage": "base", "backbone": "0123456789abcdef"},
}
CONFIG = {"stages": ["base", "target"], "method": {"name": "byol"}, "run": {"deterministic": False},
          "stage": {"base": {"method": {"name": "moco"}}, "target": {}}}  # fmt: skip


@pytest.fixture
def of():
    """of(stages, config=CONFIG) -> the files of a run with this lineage."""
    return lambda stages, config=CONFIG: RunFiles(config, {}, Metrics(), (), {"stages": stages} if stages else {})


def test_a_chain_from_published_weights(of):
    run = of([BASE, TARGET])
    start, links = chain_of(run)
    assert start == "<r>.safetensors (abababab)"
    assert links[0] == ("base", "MoCo v2", "photos/a", "5,000 steps", "abababab")
    assert links[1] == ("target", "BYOL", "birds/b", "50 steps", "01234567")
    assert chain_words(run) == "<r>.safetensors (abababab) → base → target" and last_method(run) == "byol"


def test_a_chain_from_scratch_and_none(of):
    assert chain_words(of([TARGET | {"parent": None}])) == "random weights → target"
    assert chain_words(of([])) == chain_list(of([])) == chain_list(of([TARGET | {"parent": None}])) == ""
    assert chain_list(of([BASE])) and chain_list(of([TARGET | {"parent": None}, TARGET]))
    assert chain_of(of([TARGET], {}))[1][0].method == ""  # without a configuration
    assert last_method(of([], {"stages": ["x"], "method": {"name": "moco"}})) == "moco"  # an older one


def test_the_page_shows_the_chain_and_escapes_it(make_folder):
    folder = make_folder()
    (folder / "lineage.json").write_text(json.dumps({"stages": [BASE, TARGET]}))
    page = Page(write_report(folder, {}, ()).read_text())
    assert page.text.count("<li><b>") >= 3 and "&lt;r&gt;.safetensors" in page.text
    assert "birds/b 50 steps from 01234567" in page.said
    (folder / "lineage.json").write_text("[")
    page = Page(write_report(folder, {}, ()).read_text())
    assert "lineage.json could not be read as JSON." in page.said and "chain" not in page.ids("ol")
