"""Safe continuation: a stage that starts from a backbone has it as a control, and stops where it only loses by it.

The watch looks at a score of the backbone as it is judged, before the first step and then now and again: k-NN accuracy
on training images of the evaluation where they have labels, else the effective rank of their features. Test images are
never looked at. Looking changes nothing about training.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console

from gssl_jax.errors import UserError, unknown
from gssl_jax.evals.refresh import refreshed
from gssl_jax.knobs import flag, scaled
from gssl_jax.runs import robustness
from gssl_jax.runs.evaluation import Entries, Judge
from gssl_jax.runs.folder import plain, write_atomically
from gssl_jax.runs.gauges import Gauge, Look, bare
from gssl_jax.runs.handover import Handed
from gssl_jax.runs.parts import Parts
from gssl_jax.training import distributed
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.loop import Every
from gssl_jax.training.mesh import own
from gssl_jax.training.state import TrainState

SCRATCH = "scratch"
"""The origin of a backbone that is neither published nor handed over."""

WATCHES = ("auto", "knn", "health", "off")
"""Every value `config.continuation.watch` may have."""

LEAST = 8
"""Images that a watch needs: two classes with two images in either half."""


def check(settings: ConfigDict) -> None:
    """Raises UserError for values of `config.continuation` that mean nothing."""
    if settings.watch not in WATCHES:
        raise unknown("continuation.watch", settings.watch, WATCHES)
    for key, low, high in (("every", 0.0, 1.0), ("rank_share", 0.0, 1.0)):
        if not low < settings[key] <= high:
            raise UserError(f"continuation.{key}={settings[key]}: give a share above {low:g} and at most {high:g}")
    if not 0.0 <= settings.margin < 1.0:
        raise UserError(f"continuation.margin={settings.margin}: give a fall of the accuracy from 0 to below 1")
    for key, least in (("images", LEAST), ("patience", 1)):
        if settings[key] < least:
            raise UserError(f"continuation.{key}={settings[key]} must be at least {least}")


def origin(parts: Parts, handed: Handed | None) -> str:
    """What the backbone of a stage starts from, in words: a file, the stage before, or `SCRATCH`."""
    if handed is not None:
        return f"stage {handed.stage}" if "backbone" in parts.config.method.hand_over else SCRATCH
    weights = parts.config.backbone.weights
    return Path(weights).name if weights else SCRATCH


def best(stage: Path) -> Path:
    """Where in the folder of a stage the watch keeps the best state."""
    return stage / "watched"


def judged_by(parts: Parts, state: TrainState) -> Any:
    """The variables of the backbone that the stage is judged by, whole in this process."""
    return own(parts.method.backbone(state.params, state.method_state, parts.config.evals.which), parts.mesh)


def judged_start(
    stage: Path, parts: Parts, judge: Judge, first: Callable[[], TrainState], console: Console, words: str
) -> dict[str, Entries]:
    """The entries of the controls `started` and `refreshed`, by name: the backbone before the first step.

    They are written to started.json of the stage's folder and read from there again; `first()`, the state of step 0, is
    asked for only without that file, or where it was judged by other settings. `words` are those of `origin`.
    """
    path, settings = stage / "started.json", plain(parts.config.evals)
    distributed.together("started")  # all look before one of them writes
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if held and held["evals"] == settings:
        return held["controls"]
    begun = judged_by(parts, first())
    controls = {
        "started": judge.judge(begun) | judge.teach(begun) | robustness.judge(judge, begun)
    } | refreshed_control(parts, judge, begun)
    if distributed.first():
        held = {"started_from": words, "evals": settings, "controls": controls}
        write_atomically(path, json.dumps(held, indent=1) + "\n")
    if scores := in_words(controls["started"]):
        console.print(f"what you start from ({words}): {scores}", highlight=False, soft_wrap=True)
    return controls


def refreshed_control(parts: Parts, judge: Judge, variables: Mapping[str, Any]) -> dict[str, Entries]:
    """The control `refreshed`: `variables` with batch statistics of the evaluation's training images, as HPT judges
    its base model; nothing without batch norm or labels."""
    if "batch_stats" not in variables or not judge.labelled:
        return {}
    return {"refreshed": judge.judge(refreshed(parts.backbone, variables, judge.batches(judge.sets["train"])))}


IN_WORDS = {"auroc": " AUROC", "map": " mAP"}


def in_words(entries: Entries) -> str:
    """Scores in one line: `k-NN .743, linear .801, 5 per class .702`."""
    found = []
    for name, entry in entries.items():
        protocol, _, measure = name.partition("/")
        words = protocol.replace("knn", "k-NN").replace("lowshot_", "").replace("_", " ")
        words += " per class" if re.fullmatch(r"lowshot_\d+", protocol) else ""
        words += IN_WORDS.get(measure, "")
        if entry["value"] is not None and not measure.startswith("f1_"):
            found.append(f"{words} {bare(entry['value'])}")
    return ", ".join(found)


class Watch:
    """A hook that keeps the best state of a stage and, after a fall that lasts, asks for its end by `stopped_step`.

    `kept` holds the best state, on disk before the checkpoint that remembers it: `memory()` goes into every checkpoint,
    so that a stage that goes on from one looks as if it had never stopped. A kept state of a later step than that is
    what the steps to come will find again.
    """

    def __init__(
        self,
        parts: Parts,
        gauge: Gauge,
        kept: Checkpoints,
        done: int,
        emit: Callable[[int, dict[str, Any]], None],
        memory: Mapping[str, Any] | None,
    ) -> None:
        self._parts, self._settings, self._total = parts, parts.config.continuation, parts.clock.total
        self._gauge, self._kept, self._emit = gauge, kept, emit
        self._every = Every(max(1, round(self._settings.every * self._total)), done)
        self._begun = memory is not None
        held = memory or {"start": math.nan, "best": [-1.0, ""], "best_step": 0, "last": [-1.0, ""], "below": 0}
        self._start, self._best, self._best_step = held["start"], Look(*held["best"]), held["best_step"]
        self._last, self._below = Look(*held["last"]), held["below"]
        self.stopped_step: int | None = memory["stopped_step"] if memory else None

    def memory(self) -> dict[str, Any]:
        """All that it knows, for JSON."""
        return {
            "start": self._start,
            "best": list(self._best),
            "best_step": self._best_step,
            "last": list(self._last),
            "below": self._below,
            "stopped_step": self.stopped_step,
        }

    def begin(self, state: TrainState) -> None:
        """Looks at the untouched start and keeps it; a stage that goes on has done so."""
        if not self._begun:
            now = self._look(state)
            self._start, self._begun = now.score, True
            self._note(0, state, now)

    def on_boundary(self, step: int, state: TrainState) -> None:
        """Looks when it is time, and at the end."""
        due = self._every.due(step)
        if (due or step >= self._total) and self.stopped_step is None:
            self._note(step, state, self._look(state))
            if self._below >= self._settings.patience:
                self.stopped_step = step

    def _look(self, state: TrainState) -> Look:
        found = self._gauge.look(judged_by(self._parts, state))
        size = self._gauge.size if found.right else 0
        return Look(distributed.same(found.score), distributed.same_text(found.right, size))

    def _note(self, step: int, state: TrainState, now: Look) -> None:
        self._emit(step, {"watch/score": now.score})
        self._last = now
        if now.score > self._best.score:
            self._best, self._best_step, self._below = now, step, 0
            if self._kept.latest is None or self._kept.latest < step:
                self._kept.save(state, {"score": now.score})
                self._kept.finish()
        else:
            self._below = self._below + 1 if self._gauge.fallen(self._start, self._best, now) else 0

    def restored(self, last: TrainState, sharding: Any) -> TrainState:
        """The best state after a stop, where `continuation.restore` wants it, placed as `Checkpoints.restore` does;
        else `last`.

        Raises UserError where it is no longer on disk."""
        if self.stopped_step is None or not self._settings.restore:
            return last
        if self._kept.latest is None:
            raise UserError("the best state of the stage, in its folder watched/, is gone: train it anew with --redo")
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), last)
        return self._kept.restore(abstract, sharding)[0]

    def why(self) -> str | None:
        """What has fallen, None where the stage was not stopped."""
        if self.stopped_step is None:
            return None
        return self._gauge.in_words(self._start, self._best, self._best_step, self._last)

    def sentence(self, chosen: int, words: str) -> str:
        """Why the stage has stopped, which step goes on to be judged, and the knobs to turn; `words` as of `origin`."""
        config = self._parts.config.to_dict()
        went = f"what you started from ({words})" if chosen == 0 else f"the state of step {chosen}"
        lower = scaled(config, "optim.learning_rate", 0.1)
        norms = "" if config["optim"]["trains"] == "norm" else f" or {flag(config, 'optim.trains', 'norm')}"
        return (
            f"{self.why()}, so the stage ends here with {went}. Try {lower}, a longer warm-up of the heads "
            f"(optim.freeze_backbone), fewer steps (optim.duration){norms}"
        )

    def report(self, chosen: int) -> dict[str, Any]:
        """`run.continuation` of results.json; `chosen` is the step that goes on to be judged."""
        stopped = self.stopped_step
        return {
            "watch": self._gauge.kind,
            "start": self._start,
            "best": self._best.score,
            "best_step": self._best_step,
            "last": self._last.score,
            "stopped_step": stopped,
            "restored_step": chosen if stopped is not None and chosen != stopped else None,
            "why": self.why(),
        }
