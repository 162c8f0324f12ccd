"""The tables of the page: scores with intervals, and every class in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gssl_jax.report import captions
from gssl_jax.report.measures import without_kind
from gssl_jax.report.words import (
    ClassScores,
    Row,
    Score,
    columns_of,
    frozen_rows,
    interval_words,
    own_columns,
    own_rows,
    per_cent,
    tables_of,
)

MOST_COLUMNS = 4
"""Columns that a phone has room for; a wider table scrolls in a frame of its own."""


def text(words: str) -> str:
    """Words safe in HTML, a number never parted from its per cent sign."""
    return escape(words, quote=True).replace(" %", "&nbsp;%")


def score_tables(results: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The rows as one table; of a labelled method as two, its own classifier first."""
    own, frozen = own_rows(rows), frozen_rows(rows)
    parts = []
    if own:
        columns = own_columns(results)
        words = captions.OWN_TABLE + (f" {captions.OWN_CHOICE}" if len(columns) > 1 else "")
        cells = [(row.label, (row.trained, row.last)[: len(columns)]) for row in own]
        parts.append(scores_table(words, ("own classifier", *columns), cells))
    for part in tables_of(frozen):
        named = columns_of(part)
        headings = ("frozen features" if own else "measure", "trained", *named.values())
        cells = [(without_kind(row.label), (row.trained, *map(row.of, named))) for row in part]
        parts.append(scores_table(captions.on_features(part, bool(own)), headings, cells))
    return "".join(parts)


def scores_table(caption: str, headings: Sequence[str], rows: Sequence[tuple[str, tuple[Score | None, ...]]]) -> str:
    """Rows of a name and a score for each heading but the first, each with its interval; scrolls where it is wide."""
    lines = []
    for label, scores in rows:
        cells = "".join(_cell(one, place == 0) for place, one in enumerate(scores))
        lines.append(f'<tr><th scope="row">{text(label)}</th>{cells}</tr>')
    if len(headings) <= MOST_COLUMNS:
        return table(caption, headings, lines)
    return f'<p class="soft">{text(caption)}</p><div class="wide">{table("", headings, lines)}</div>'


def _cell(one: Score | None, first: bool) -> str:
    if one is None:
        return "<td>\u2013</td>"
    kind = ' class="first"' if first else ""
    interval = interval_words(one).replace(" to ", "\u2013")
    return f"<td{kind}>{per_cent(one.value)}<small>{interval}</small></td>"


def class_table(scores: ClassScores) -> str:
    """Every class with its training images and its accuracy in per cent, the richest first; closed until asked for."""
    order = sorted(range(len(scores.names)), key=lambda k: -scores.images[k])
    lines = []
    for k in order:
        one = scores.accuracies[k]
        accuracy = "\u2013" if one is None else per_cent(one)
        name = f'<th scope="row">{text(scores.names[k])}</th>'
        lines.append(f"<tr>{name}<td>{scores.images[k]:,}</td><td>{accuracy}</td></tr>")
    inside = table("", ("class", "training images", "accuracy, %"), lines)
    return f"<details><summary>{captions.CLASSES_TABLE}</summary>{inside}</details>"


def table(caption: str, headings: Sequence[str], lines: Sequence[str]) -> str:
    """A table of finished rows; `caption` and `headings` are plain words."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in headings)
    said = f"<caption>{text(caption)}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
