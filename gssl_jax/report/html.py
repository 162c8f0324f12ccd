"""Writes report.html: one file that opens offline, the verdict first, every picture inside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gssl_jax.knobs import at, is_number
from gssl_jax.report import (
    captions,
    charts,
    continuation,
    labelled_charts,
    method_words,
    pictures,
    progress_charts,
    robustness,
)
from gssl_jax.report.chains import chain_list, last_method
from gssl_jax.report.facts import facts, feature_notes, protocol_of, summary, text_of
from gssl_jax.report.health import Finding, findings
from gssl_jax.report.label_free import label_free_table
from gssl_jax.report.measures import fine_tuned, robust
from gssl_jax.report.page import attempt, definitions, embedded, opening, paragraph, write_page
from gssl_jax.report.reading import RunFiles, read_run
from gssl_jax.report.tables import class_table, score_tables, text
from gssl_jax.report.verdict import verdict
from gssl_jax.report.words import Row, class_scores, comparison_table, frozen_rows, labelled, own_rows

Pictures = Mapping[str, Mapping[str, np.ndarray]]
LEVEL_WORDS = {"alarm": "\u25b2 alarm", "hint": "\u25cf worth a look", "good": "\u2713 in order"}


def write_report(folder: Path, pictures_by_name: Pictures, classes: Sequence[str]) -> Path:
    """Draws the figures of a run and writes `<folder>/report.html`, at once and whole.

    Args:
      folder: run folder with config.json, metrics.jsonl and results.json; what is missing is left out with a sentence.
      pictures_by_name: arrays for `reconstruction`, `clusters`, `pca`, `attention`, `gradcam`, `neighbours`, `tsne`,
        any of them absent:
        {"reconstruction": {"input", "corrupted", "reconstructed": float [n, S, S, C] in [0, 1]},
         "clusters": {"images": [n, S, S, C], "maps": int [n, h, w]},
         "masks": {"images": [n, S, S, C], "truth", "found": uint8 [n, S, S], "names": [classes]},
         "pca": {"images": [n, S, S, C], "maps": float [n, h, w, 3] in [0, 1]},
         "attention": {"images": [n, S, S, C], "maps": float [n, heads, h, w], optionally "rollout": [n, h, w]},
         "gradcam": {"images": [n, S, S, C], "maps": float [n, S, S] in [0, 1], "predicted", "labels": int [n]},
         "neighbours": {"queries": [n, S, S, C], "neighbours": [n, k, S, S, C], "query_labels": int [n],
                        "neighbour_labels": int [n, k]},
         "tsne": {"points": [N, 2], "labels": int [N]}}; C is 1, 3 or N, labels are -1 where unknown.
      classes: class names by label, empty for unlabelled images.

    Returns:
      The path of the report. Figures stay in `<folder>/figures/<name>.png`.
    """
    folder, classes = Path(folder), tuple(classes)
    run = read_run(folder)
    rows, found = comparison_table(run.results), findings(run)
    alarms = sum(one.level == "alarm" for one in found)
    judged = verdict(run.results, alarms, validated=bool(run.metrics.keys("eval/validation")))
    judged = judged._replace(sentences=(*continuation.notice(run), *judged.sentences))
    figures = folder / "figures"
    sections = {
        "table": _table(run.results, [row for row in rows if robust(row.key) is None]),
        "continuation": continuation.section(run),
        "run": _run(run),
        "lowshot": _lowshot(rows, figures),
        "iterations": _iterations(rows, figures),
        "robustness": robustness.section(rows, figures),
        "classes": _classes(run, figures),
        "curves": _curves(run, rows, figures),
        "health": _health(found, run),
        "pictures": _pictures(run, pictures_by_name, classes, figures),
        "protocol": _protocol(rows),
        "versions": _versions(run),
        "config": _config(run),
    }
    sections = {name: inside for name, inside in sections.items() if inside}
    headings = {name: captions.HEADINGS[name] for name in sections}
    sections = {"verdict": opening(judged, len(classes), headings), **sections}
    recipe = at(run.results, "run.config")
    recipe = recipe if isinstance(recipe, str) and recipe else folder.resolve().name
    title, name = f"{recipe}: {judged.badge.lower()}", f"gssl_jax report \u00b7 {recipe}"
    return write_page(folder / "report.html", title, name, sections, captions.HEADINGS)


def _figure(path: Path, name: str, caption: str, kind: str = "picture") -> str:
    return embedded(path, name, caption, captions.ALT[name], captions.PICTURES.get(name, ""), kind)


def _table(results: Mapping[str, Any], rows: list[Row]) -> str:
    return score_tables(results, rows) if rows else paragraph(captions.NO_TABLE)


def _run(run: RunFiles) -> str:
    problems = "".join(paragraph(sentence, "soft") for sentence in run.problems)
    return f"{paragraph(summary(run))}{problems}{chain_list(run)}{definitions(facts(run))}"


def _lowshot(rows: list[Row], folder: Path) -> str:
    """Nothing where something was measured, but not with few labels."""
    drawn = attempt(lambda: charts.draw_lowshot(rows, folder), captions.MISSING["lowshot"])
    if isinstance(drawn, str):
        return "" if rows and drawn == captions.MISSING["lowshot"] else paragraph(drawn)
    several = any(row.key.endswith("/map") for row in charts.few_labels(rows).values())
    said = captions.LOWSHOT_LABELS if several else captions.LOWSHOT
    figure = _figure(drawn, "lowshot", said[0], "chart")
    notes = "".join(paragraph(sentence) for sentence in said[1:])
    return f'<div class="pair">{figure}<div>{notes}</div></div>'


def _iterations(rows: list[Row], folder: Path) -> str:
    """The linear classifier over its iterations; nothing where no protocol has them."""
    path = progress_charts.draw_iterations(rows, folder)
    if path is None:
        return ""
    figure = _figure(path, "iterations", captions.ITERATIONS[0], "chart")
    return f'<div class="pair">{figure}<div>{paragraph(captions.ITERATIONS[1])}</div></div>'


def _classes(run: RunFiles, folder: Path) -> str:
    """Every class of a labelled method; nothing for any other."""
    if not labelled(run.results):
        return ""
    scores = class_scores(run.results)
    if scores is None:
        return paragraph(captions.MISSING["classes"])
    drawn = attempt(lambda: labelled_charts.draw_classes(scores, folder), captions.MISSING["classes"])
    form = 0 if scores.uneven else 1
    notes = paragraph(captions.CLASSES_NOTES[form]) + class_table(scores)
    if isinstance(drawn, str):
        return paragraph(drawn) + notes
    figure = _figure(drawn, "classes", captions.CLASSES[form], "chart")
    return f'<div class="pair">{figure}<div>{notes}</div></div>'


def _curves(run: RunFiles, rows: list[Row], folder: Path) -> str:
    knn = next((row for row in rows if row.key in ("knn/top1", "knn/map", "knn/auroc")), None)
    controls = {name: one.value for name, one in knn.controls.items()} if knn else {}
    chosen = at(run.results, "run.selected_step")
    watched = at(run.results, "run.continuation")
    drawn = charts.draw_curves(run.metrics, controls, folder, chosen if is_number(chosen) else None, watched)
    if not drawn:
        return paragraph(captions.MISSING["curves"])
    words = captions.CURVES | {"loss": method_words.LOSS_OF.get(last_method(run), captions.CURVES["loss"])}
    figures = "".join(_figure(path, name, words[name], "chart") for name, path in drawn.items())
    return f'<div class="columns">{figures}</div>'


def _finding(one: Finding) -> str:
    knob = f"<p>Try <code>{text(one.knob)}</code></p>" if one.knob else ""
    return (
        f'<li><span class="badge {one.level}">{LEVEL_WORDS[one.level]}</span><b>{text(one.title)}</b>'
        f"<p>{text(one.text)}</p>{knob}</li>"
    )


def _health(found: list[Finding], run: RunFiles) -> str:
    if not found:
        return paragraph(captions.MISSING["health"])
    stages = run.metrics.stages
    note = captions.OWN_HEALTH if labelled(run.results) else captions.HEALTH
    note += f" Read from the last of {len(stages)} stages." if len(stages) > 1 else ""
    listed = f'{paragraph(note, "soft")}<ul class="findings">{"".join(map(_finding, found))}</ul>'
    return listed + label_free_table(run.results)


def _pictures(run: RunFiles, given: Pictures, classes: tuple[str, ...], folder: Path) -> str:
    """The picture sheets, each with a sentence on how to read it, or with one that says why it is not there, where
    the method could have it."""
    draw: dict[str, Callable[[Any], Path]] = {
        "gradcam": lambda p: pictures.draw_gradcam(p, classes, folder),
        "reconstruction": lambda p: pictures.draw_reconstruction(p, folder),
        "clusters": lambda p: pictures.draw_clusters(p, folder),
        "masks": lambda p: pictures.draw_masks(p, folder),
        "pca": lambda p: pictures.draw_pca(p, folder),
        "attention": lambda p: pictures.draw_attention(p, folder),
        "neighbours": lambda p: pictures.draw_neighbours(p, classes, folder),
        "tsne": lambda p: charts.draw_tsne(p["points"], p["labels"], classes, folder),
    }
    owed = _owed(run)
    parts = []
    for name, drawer in draw.items():
        if name not in owed and name not in given:
            continue
        arrays = given[name] if name in given else None
        drawn = attempt(partial(drawer, arrays), captions.MISSING[name]) if arrays else captions.MISSING[name]
        if arrays is None or isinstance(drawn, str):
            parts.append(f"<div><h3>{captions.PICTURES[name]}</h3>{paragraph(str(drawn), 'soft')}</div>")
            continue
        caption = captions.caption(name, arrays, classes)
        if name == "gradcam" and at(run.config, "backbone.kind") == "vit":
            caption += f" {captions.VIT_EVIDENCE}"
        parts.append(_figure(drawn, name, caption, "chart" if name == "tsne" else "picture"))
    return f'<div class="pictures">{"".join(parts)}</div>'


def _owed(run: RunFiles) -> set[str]:
    """The sheets whose absence is worth a sentence: those that the method and its backbone can have."""
    owed = set(captions.SHEETS)
    if labelled(run.results):
        return owed | {"gradcam"}
    owed |= {"clusters"} if at(run.config, "method.prototypes.patch") else set()
    owed |= {"reconstruction"} if at(run.config, "method.name") == "maskcluster" else set()
    return owed | ({"attention"} if at(run.config, "backbone.kind") == "vit" else set())


def _protocol(rows: list[Row]) -> str:
    if not rows:
        return paragraph(captions.MISSING["protocol"])
    measures = definitions([(row.label, protocol_of(row)) for row in rows])
    notes = definitions([(f"feature {name}", words) for name, words in feature_notes(frozen_rows(rows))])
    said: tuple[str, ...] = captions.OWN_PROTOCOL if own_rows(rows) else captions.PROTOCOL
    said += (captions.TUNED_PROTOCOL,) if any(fine_tuned(row.key) for row in rows) else ()
    return "".join(paragraph(sentence) for sentence in said) + measures + notes


def _versions(run: RunFiles) -> str:
    versions = at(run.results, "run.versions")
    pairs = {"device": at(run.results, "run.device"), **(versions if isinstance(versions, Mapping) else {})}
    known = [(str(name), text_of(value)) for name, value in pairs.items() if value]
    if not known:
        return paragraph(captions.MISSING["versions"])
    return definitions(known)


def _config(run: RunFiles) -> str:
    if not run.config:
        return paragraph(captions.MISSING["config"])
    values = text(json.dumps(run.config, indent=2, ensure_ascii=False))
    return f"<details><summary>Show every value of this run</summary><pre>{values}</pre></details>"
