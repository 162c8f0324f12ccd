"""What happens beside the steps of a stage: the log, checkpoints, evaluation, health and the collapse alarm."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from gssl_jax.runs.console import Progress
from gssl_jax.runs.continuation import Watch, judged_by
from gssl_jax.runs.evaluation import Judge, floats, log_row
from gssl_jax.runs.health import pairs
from gssl_jax.runs.images import Images
from gssl_jax.runs.parts import Parts
from gssl_jax.runs.watch import CollapseAlarm, HealthProbe
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.loop import Every, Hooks
from gssl_jax.training.mesh import local_mesh, own, replicated
from gssl_jax.training.metrics import Writer
from gssl_jax.training.state import TrainState


@dataclass
class Recorder:
    """Hands rows to the writers, and what is said in words to the console too."""

    stage: str
    writers: list[Writer]
    progress: Progress

    def emit(self, step: int, row: Mapping[str, Any]) -> None:
        for writer in self.writers:
            writer.write(self.stage, step, row)
        if "alarm" in row:
            self.progress.say(f"step {step}: {row['alarm']}", style="bold red")


@dataclass
class Saver:
    """Saves when `every` says so, and remembers the seconds trained before this start."""

    checkpoints: Checkpoints
    images: Images
    every: Every
    before: float
    watch: Watch | None
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def save(self, state: TrainState) -> None:
        stream = {"next_batch": int(state.step), "fingerprint": self.images.fingerprint}
        watched = {} if self.watch is None else {"watch": self.watch.memory()}
        self.checkpoints.save(state, {"train": stream, "seconds": self.seconds, **watched})

    def on_boundary(self, step: int, state: TrainState) -> None:
        if self.every.due(step):
            self.save(state)


@dataclass
class Examiner:
    """Evaluates when `every` says so and writes the scores to the log."""

    judge: Judge
    parts: Parts
    every: Every
    recorder: Recorder

    def on_boundary(self, step: int, state: TrainState) -> None:
        if self.every.due(step) and step < self.parts.clock.total:
            variables = judged_by(self.parts, state)
            row = log_row(self.judge.judge(variables))
            self.recorder.emit(step, row)
            scores = "  ".join(f"{name.removeprefix('eval/')} {value:.3f}" for name, value in row.items())
            self.recorder.progress.say(f"step {step}: {scores}")


def make_hooks(
    parts: Parts, recorder: Recorder, judge: Judge, untrained: Any, progress: Progress, saver: Saver, done: int
) -> tuple[HealthProbe, Hooks]:
    """What happens beside the steps: log, alarm and live line with the numbers; health, evaluation and checkpoint
    between the steps."""
    config = parts.config
    alarm = CollapseAlarm(recorder.emit, config.to_dict(), done)

    def measured(step: int, row: dict[str, Any]) -> None:
        recorder.emit(step, row)
        alarm.on_health(step, row)

    seen = judge.some("train", config.run.health_samples)["image"]
    seen = seen[: len(seen) // 2 * 2] if len(seen) > 3 else seen
    views = pairs(judge, config.data, seen) if len(seen) > 3 else None
    here = replicated(local_mesh(parts.mesh))
    sample, views = jax.device_put((floats(seen), None if views is None else floats(views)), here)
    probe = HealthProbe(
        parts.method,
        lambda variables, images: judge.encode(own(variables, parts.mesh), images)["feat"],
        sample,
        views,
        config.evals.which,
        Every(config.run.health_every, done),
        measured,
    )
    probe.begin(untrained)
    logging = [recorder.emit, alarm.on_log, progress.on_log]
    watching = [] if saver.watch is None else [saver.watch.on_boundary]  # first: the checkpoint remembers the look
    boundary = [probe.on_boundary, *watching, saver.on_boundary]
    if not parts.kind.labelled:  # test images are looked at once, at the end, where labels train
        examiner = Examiner(judge, parts, Every(parts.clock.steps(config.evals.every), done), recorder)
        boundary.append(examiner.on_boundary)
    return probe, Hooks(logging, boundary)
