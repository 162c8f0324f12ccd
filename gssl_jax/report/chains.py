"""The chain of stages that led to a backbone, from lineage.json: what each was trained on, and what it began with."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import PurePath
from typing import Any, NamedTuple

from gssl_jax.knobs import at, is_number
from gssl_jax.report.method_words import SHORT_METHODS
from gssl_jax.report.reading import RunFiles
from gssl_jax.runs.staleness import effective

DIGITS = 8
"""Of a digest, as many as tell two apart at a glance; lineage.json has them whole."""


class Link(NamedTuple):
    """One stage in words: its method, data and steps, and the digest of what it began with, short; empty for none."""

    stage: str
    method: str
    data: str
    steps: str
    parent: str


def chain_of(run: RunFiles) -> tuple[str, list[Link]]:
    """The published weights at the beginning ("" for random ones), with the digits of their digest, and every stage."""
    stages = at(run.lineage, "stages")
    entries = [one for one in stages if isinstance(one, Mapping)] if isinstance(stages, list) else []
    links = [_link(run, entry) for entry in entries]
    first = entries[0].get("parent") if entries else None
    file = at(first, "file")
    if not isinstance(file, str) or not file:
        return "", links
    return f"{PurePath(file).name}{_digits(at(first, 'sha256'), ' ({})')}", links


def _link(run: RunFiles, entry: Mapping[str, Any]) -> Link:
    name, steps = str(entry.get("stage")), entry.get("steps")
    parent = entry.get("parent")
    digest = at(parent, "backbone") or at(parent, "sha256")
    return Link(name, SHORT_METHODS.get(_name(run.config, name), _name(run.config, name)), str(entry.get("data") or ""),
                f"{steps:,} steps" if is_number(steps) else "", _digits(digest, "{}"))  # fmt: skip


def last_method(run: RunFiles) -> str:
    """The name in the configuration of the method of the last stage; empty where it does not tell."""
    stages = at(run.config, "stages")
    return _name(run.config, str(stages[-1])) if isinstance(stages, list) and stages else ""


def _name(config: Mapping[str, Any], stage: str) -> str:
    known = isinstance(config.get("stage"), Mapping) and at(config, "run.deterministic") is not None
    return str(effective(config, stage).get("method.name") if known else at(config, "method.name") or "")


def _digits(digest: Any, form: str) -> str:
    return form.format(digest[:DIGITS]) if isinstance(digest, str) and digest else ""


def chain_words(run: RunFiles) -> str:
    """The chain in a line: "resnet50.safetensors (1a2b3c4d) \u2192 source \u2192 target"; empty without a lineage."""
    start, links = chain_of(run)
    return " \u2192 ".join([start or "random weights", *(link.stage for link in links)]) if links else ""


def chain_list(run: RunFiles) -> str:
    """The chain as boxes in HTML, what it began with first; nothing without a lineage, and for one stage from random
    weights."""
    start, links = chain_of(run)
    if not links or not (start or len(links) > 1):
        return ""
    boxes = [f"<li><b>{escape(start or 'random weights')}</b><small>the beginning</small></li>"]
    for link in links:
        told = [link.method, link.data, link.steps, f"from {link.parent}" if link.parent else ""]
        lines = "".join(f"<small>{escape(words)}</small>" for words in told if words)
        boxes.append(f"<li><b>{escape(link.stage)}</b>{lines}</li>")
    return f'<ol class="chain">{"".join(boxes)}</ol>'
