"""Writes the report of a study: one file that opens offline, the verdict first, its tables as Markdown too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from gssl_jax.knobs import at
from gssl_jax.report.facts import protocol_of, text_of
from gssl_jax.report.page import definitions, embedded, paragraph, write_page
from gssl_jax.report.study_cells import STATUS, Study, measure_words, read_study
from gssl_jax.report.study_figure import draw_study
from gssl_jax.report.study_tables import (
    Grid,
    contrast_table,
    control_tables,
    cost_table,
    family_table,
    html,
    markdown,
    prediction_table,
    protocols,
    scores_table,
    status_table,
)
from gssl_jax.report.study_verdict import StudyVerdict, study_verdict
from gssl_jax.report.tables import text
from gssl_jax.report.words import Row, score
from gssl_jax.runs import costs
from gssl_jax.runs.folder import plain
from gssl_jax.runs.study import Folder

HEADINGS = {
    "verdict": "Verdict",
    "table": "Every setting",
    "figure": "Seed by seed",
    "contrasts": "Against each family",
    "families": "Families",
    "controls": "Which collapse control",
    "prediction": "What label-free scores tell",
    "cells": "Cells",
    "cost": "What it cost",
    "protocol": "Protocol",
    "versions": "Versions",
    "config": "Configuration",
}
CAPTION = (
    "A dot for each seed, a bar at their mean, the best setting of each family first; a cross is a cell that collapsed "
    "or was not finite. Dashed: the untrained network; dotted: raw pixels; both by the same protocol."
)
ALT = "Scores of every setting, a dot for each seed, grouped by family"
NO_FIGURE = "No cell has a score yet, so there is nothing to draw."
NO_CONTRASTS = "The method and the families that it is asked to beat have no seeds in common yet."
CONTROLS = (
    "A control that is better here by a difference within the spread is not better: the verdict says what survives a "
    "paired test with Holm's correction."
)
PREDICTION = "A score without labels is of use where it puts networks into the order that labels would."


class Written(NamedTuple):
    """Where the report is, its headline, and the tables as Markdown."""

    page: Path
    headline: str
    markdown: str


def write_study(config: ConfigDict, folder: Folder) -> Written:
    """Reads the cells of a study's folder and writes `<folder>/report.html` and `<folder>/figures/study.png`.

    Cells that are missing, failed or collapsed are named; nothing is computed anew."""
    study = read_study(config, folder)
    judged = study_verdict(study)
    flops = {name: float(values[0]) for name, values in costs.read(folder.costs)["costs"].items()}
    grids = _grids(study, flops)
    drawn = draw_study(study, folder.figures)
    figure = paragraph(NO_FIGURE) if drawn is None else embedded(drawn, "study", CAPTION, ALT, kind="chart")
    sections = {
        "table": _tables(grids["table"]),
        "figure": f'<div class="study">{figure}</div>',
        "contrasts": _tables(grids["contrasts"]) or paragraph(NO_CONTRASTS),
        "families": _tables(grids["families"]),
        "controls": (paragraph(CONTROLS, "soft") if grids["controls"] else "") + _tables(grids["controls"]),
        "prediction": (paragraph(PREDICTION) if grids["prediction"] else "") + _tables(grids["prediction"]),
        "cells": _cells(study),
        "cost": _tables(grids["cost"]),
        "protocol": _protocol(study),
        "versions": _versions(study),
        "config": _config(config),
    }
    sections = {name: inside for name, inside in sections.items() if inside}
    headings = {name: HEADINGS[name] for name in sections}
    name = f"gssl_jax study \u00b7 {folder.path.resolve().name}"
    sections = {"verdict": _opening(judged, headings), **sections}
    page = write_page(folder.report, f"study: {judged.badge.lower()}", name, sections, HEADINGS)
    return Written(page, judged.headline, _markdown(judged, grids))


def _grids(study: Study, flops: dict[str, float]) -> dict[str, list[tuple[str, Grid]]]:
    """Every table by section, each under a heading of its own (empty for none)."""
    contrasts, prediction = contrast_table(study), prediction_table(study)
    scored = bool(study.measures)
    return {
        "table": [("", scores_table(study))],
        "contrasts": [("", contrasts)] if contrasts else [],
        "families": [("", family_table(study))] if scored else [],
        "controls": [(name, grid) for name, grids in control_tables(study) for grid in grids],
        "prediction": [("", prediction)] if prediction else [],
        "cost": [("", cost_table(study, flops))],
    }


def _tables(grids: Sequence[tuple[str, Grid]]) -> str:
    parts, last = [], ""
    for name, grid in grids:
        parts.append(f"<h3>{text(name)}</h3>" if name and name != last else "")
        parts.append(html(grid))
        last = name
    return "".join(parts)


def _opening(judged: StudyVerdict, headings: dict[str, str]) -> str:
    links = "".join(f'<a href="#{name}">{text(heading)}</a>' for name, heading in headings.items())
    said = "".join(paragraph(sentence) for sentence in judged.sentences)
    badge = f'<span class="badge {judged.tone}">{text(judged.badge)}</span>'
    return f"{badge}<h1>{text(judged.headline)}</h1>{said}<nav>{links}</nav>"


def _cells(study: Study) -> str:
    """How many cells came to which end, those that are not in order in words, and all of them on demand."""
    counts = {words: sum(one.status == status for one in study.seen) for status, words in STATUS.items()}
    told = "; ".join(f"{number} {words}" for words, number in counts.items() if number)
    whole = status_table(study)
    odd = tuple(row for row in whole.rows if row[1] not in (STATUS["finished"], STATUS["missing"]))
    shown = _words(whole._replace(rows=odd)) if odd else ""
    every = f"<details><summary>Show all {len(study.seen)} cells</summary>{_words(whole)}</details>"
    return paragraph(f"Of {len(study.seen)} cells: {told}.") + shown + every


def _words(grid: Grid) -> str:
    return html(grid).replace('class="wide"', 'class="wide words"', 1)


def _protocol(study: Study) -> str:
    terms = []
    for key, entry in protocols(study):
        found = score(entry)
        if found is not None:
            row = Row(key, measure_words(key, list(study.config.judged)), found, {})
            terms.append((row.label, protocol_of(row)))
    return paragraph(
        "Every cell is judged by the same protocols, on frozen features; what is tuned is tuned on training images. "
        "The intervals below are those of one cell; those of the study are over seeds."
    ) + definitions(terms) if terms else ""  # fmt: skip


def _versions(study: Study) -> str:
    """Device and versions of all cells, several where they differ."""
    found: dict[str, dict[str, None]] = {}
    for one in study.seen:
        versions = at(one.files.results, "run.versions") or {}
        for name, value in {"device": at(one.files.results, "run.device"), **versions}.items():
            if value:
                found.setdefault(name, {})[text_of(value)] = None
    return definitions([(name, ", ".join(values)) for name, values in found.items()])


def _config(config: ConfigDict) -> str:
    shown = json.dumps(plain(config), indent=1, sort_keys=True)
    return f"<details><summary>Show the study's configuration</summary><pre>{escape(shown)}</pre></details>"


def _markdown(judged: StudyVerdict, grids: dict[str, list[tuple[str, Grid]]]) -> str:
    parts = [judged.headline, *judged.sentences]
    for name, found in grids.items():
        parts += [f"## {HEADINGS[name]}"] if found else []
        for heading, grid in found:
            parts += [markdown(grid._replace(caption=f"{heading}: {grid.caption}" if heading else grid.caption))]
    return "\n\n".join(parts) + "\n"
