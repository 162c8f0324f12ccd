"""Whether a training that began with weights got worse and was stopped: what the run watched, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gssl_jax.knobs import at, is_number
from gssl_jax.report.page import paragraph
from gssl_jax.report.progress_charts import watched
from gssl_jax.report.reading import RunFiles
from gssl_jax.report.tables import text
from gssl_jax.report.words import per_cent

NAMES = {"knn": "k-NN accuracy", "health": "the health of the features"}


def notice(run: RunFiles) -> tuple[str, ...]:
    """A sentence for the verdict where the training was stopped before its end."""
    watch = at(run.results, "run.continuation")
    if not is_number(at(watch, "stopped_step")):
        return ()
    return (_stopped(watch),)


def _stopped(watch: Mapping[str, Any]) -> str:
    said = f"Training was stopped at step {watch['stopped_step']:,}"
    why = at(watch, "why")
    said += f": {why.rstrip('.')}." if isinstance(why, str) and why else "."
    restored = at(watch, "restored_step")
    if is_number(restored):
        state = f"the state of step {restored:,}" if restored else "the state before any training"
        said += f" What is judged here is {state}."
    return said


def section(run: RunFiles) -> str:
    """What was watched, where it began, was best and ended, and what came of it; nothing where nothing was watched."""
    watch = at(run.results, "run.continuation")
    if not isinstance(watch, Mapping):
        return ""
    stopped = is_number(at(watch, "stopped_step"))
    inside = _numbers(watch)
    if not stopped:
        return paragraph(f"{inside} It gave no reason to stop before the end.")
    said = _stopped(watch)
    return f'<p class="stopped"><span class="badge hint">stopped</span> <b>{text(said)}</b></p>{paragraph(inside)}'


def _numbers(watch: Mapping[str, Any]) -> str:
    """The watched score in a sentence."""
    factor, name = watched(watch)[1], NAMES.get(str(watch.get("watch")), "a score")

    def shown(value: float) -> str:
        return f"{per_cent(value)} %" if factor > 1 else f"{value:.3g}"

    start, best, step, last = (at(watch, key) for key in ("start", "best", "best_step", "last"))
    parts = [f"{shown(start)} at the start"] if is_number(start) else []
    if is_number(best):
        parts.append(f"{shown(best)} at best" + (f" (step {step:,})" if is_number(step) else ""))
    parts += [f"{shown(last)} at the last look"] if is_number(last) else []
    return f"While training, {name} was watched" + (f": {', '.join(parts)}." if parts else ".")
