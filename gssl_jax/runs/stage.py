"""One stage: from its parts to a trained state, resumable at any step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from clu import parameter_overview
from jax import Array
from rich.console import Console

from gssl_jax.errors import UserError
from gssl_jax.interop.load import drawn, load_backbone
from gssl_jax.runs.console import Progress
from gssl_jax.runs.evaluation import Judge, floats, log_row
from gssl_jax.runs.folder import RunFolder
from gssl_jax.runs.handover import Handed, hand_over
from gssl_jax.runs.images import Images, shape_batch
from gssl_jax.runs.parts import Parts
from gssl_jax.runs.selection import Selector
from gssl_jax.runs.watch import CollapseAlarm, HealthProbe
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.loop import Every, Hooks, train
from gssl_jax.training.mesh import put_batch, replicated
from gssl_jax.training.metrics import JsonLines, TensorBoard, Writer, cut_rows
from gssl_jax.training.optimizer import schedules_of
from gssl_jax.training.signals import StopRequest
from gssl_jax.training.state import TrainState, create_state
from gssl_jax.training.step import StepFunction, gather, make_step


class Outcome(NamedTuple):
    """How a stage ended: its state and the one that validation images chose (the same without any), the untrained
    backbone for comparison, the images it was trained on, seconds of training over all of its starts, and the signal
    that interrupted it (0 = none)."""

    state: TrainState
    selected: TrainState
    untrained: Any
    images: Images
    seconds: float
    signal: int


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
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def save(self, state: TrainState) -> None:
        stream = {"next_batch": int(state.step), "fingerprint": self.images.fingerprint}
        self.checkpoints.save(state, {"train": stream, "seconds": self.seconds})

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
            variables = self.parts.method.backbone(state.params, state.method_state, self.judge.settings.which)
            row = log_row(self.judge.judge(variables))
            self.recorder.emit(step, row)
            scores = "  ".join(f"{name.removeprefix('eval/')} {value:.3f}" for name, value in row.items())
            self.recorder.progress.say(f"step {step}: {scores}")


def run_stage(
    parts: Parts,
    number: int,
    name: str,
    folder: RunFolder,
    judge: Judge,
    console: Console,
    handed: Handed | None = None,
) -> Outcome:
    """Trains the stage to its end or to a signal; `handed` is the end of the stage before, if there is one."""
    config, total, samples = parts.config, parts.clock.total, sum(parts.batch_sizes.values())
    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder.checkpoints(number, name), config.run.keep_checkpoints))
        done = checkpoints.latest or 0
        images = Images.load(parts)
        batches = stack.enter_context(images.batches(done))
        state, untrained, before = start(parts, checkpoints, images, handed, console)
        describe(parts, state, images, console, folder.path / "stages" / f"{number}-{name}")
        cut_rows(folder.metrics, name, done)
        writers: list[Writer] = [JsonLines(folder.metrics)]
        if config.run.tensorboard:
            writers.append(TensorBoard(folder.tensorboard, done))
        for writer in writers:
            stack.callback(writer.close)
        progress = Progress(console, name, total, samples)
        saver = Saver(checkpoints, images, Every(config.run.checkpoint_every, done), before)
        recorder = Recorder(name, writers, progress)
        probe, hooks = make_hooks(parts, recorder, judge, untrained, progress, saver, done)
        selector = None
        if parts.validation is not None:
            best = stack.enter_context(Checkpoints(folder.best(number, name), 1))
            every = Every(parts.clock.steps(config.evals.every), done)
            selector = Selector(judge, best, every, total, recorder.emit, progress.say)
            hooks = hooks._replace(on_boundary=[*hooks.on_boundary, selector.on_boundary])
        with progress, StopRequest() as request:
            stop = train(
                state,
                step_maker(parts),
                batches,
                images.resident,
                parts.mesh,
                total=total,
                batch_size=samples,
                hooks=hooks,
                log_every=config.run.log_every,
                dispatch=config.run.steps_per_dispatch,
                asked_to_stop=lambda: bool(request.asked),
            )
            probe.finish()
        seconds = saver.seconds if done < total else before
        if done < total:
            saver.save(stop.state)
        selected = stop.state
        if selector is not None and not stop.interrupted:
            selected = selector.selected(stop.state, replicated(parts.mesh))
    if stop.state.skipped:
        skipped = f"{int(stop.state.skipped)} steps were not finite and changed nothing: lower optim.learning_rate"
        console.print(skipped, style="yellow")
    return Outcome(stop.state, selected, untrained, images, seconds, request.asked if stop.interrupted else 0)


def start(
    parts: Parts, checkpoints: Checkpoints, images: Images, handed: Handed | None, console: Console
) -> tuple[TrainState, Any, float]:
    """The state to begin with, the untrained backbone, and the seconds trained before.

    The order: 1. resume from the stage's own checkpoint; 2. what the stage before hands over; 3. published weights,
    `backbone.weights`; 4. from scratch.
    """
    whole, config = replicated(parts.mesh), parts.config

    def fresh(batches: Any, key: Array) -> TrainState:
        return create_state(parts.method, parts.optimiser, gather(images.resident, batches), key)

    batch = put_batch(shape_batch(parts), parts.mesh)
    key = jax.random.key(config.seed)
    state = jax.jit(fresh, out_shardings=whole)(batch, key)
    untrained = jax.tree.map(jnp.copy, parts.method.backbone(state.params, state.method_state, "teacher"))
    if checkpoints.latest is not None:
        state, extra = checkpoints.restore(jax.eval_shape(fresh, batch, key), whole)
        check_stream(extra["train"], images, int(state.step))
        console.print(f"going on at step {int(state.step)} of {parts.clock.total}", highlight=False)
        return state, untrained, float(extra["seconds"])
    if handed is None and config.backbone.weights:
        state = jax.device_put(published(parts, state, console), whole)
    if handed is not None:
        state = jax.device_put(hand_over(state, handed, config.method.hand_over), whole)
    return state, untrained, 0.0


def published(parts: Parts, state: TrainState, console: Console) -> TrainState:
    """`state` with the weights of `backbone.weights` in student and teacher; prints what became of every leaf.

    Raises UserError for a file that does not fit, see `interop.load.load_backbone`."""
    settings = parts.config.backbone
    variables = parts.method.backbone(state.params, state.method_state, "student")
    loaded, table = load_backbone(settings.weights, parts.backbone, variables, tuple(settings.allow))
    console.print(drawn(table))
    for note in table.notes:
        console.print(note, style="yellow", highlight=False)
    return hand_over(state, Handed(table.file, loaded, state.params, {}), ("backbone",))


def check_stream(saved: Mapping[str, Any], images: Images, step: int) -> None:
    """Raises UserError where the data are not those the checkpoint was trained on."""
    if saved["fingerprint"] != images.fingerprint or saved["next_batch"] != step:
        raise UserError(
            "the training images are not those this run began with (their fingerprint differs): put them back, or "
            "choose another --workdir"
        )


def step_maker(parts: Parts) -> Any:
    """Number of steps -> the jitted step for it, made once."""
    made: dict[int, StepFunction] = {}
    schedules = schedules_of(parts.config.optim, parts.clock)

    def step_for(n: int) -> StepFunction:
        if n not in made:
            made[n] = make_step(parts.method, parts.optimiser, parts.mesh, n, schedules)
        return made[n]

    return step_for


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

    seen = floats(judge.some("train", config.run.health_samples)["image"])
    sample = jax.device_put(seen, replicated(parts.mesh))
    probe = HealthProbe(
        parts.method,
        lambda variables, images: judge.encode(variables, images)["feat"],
        sample,
        config.evals.which,
        Every(config.run.health_every, done),
        measured,
    )
    probe.begin(untrained)
    logging = [recorder.emit, alarm.on_log, progress.on_log]
    boundary = [probe.on_boundary, saver.on_boundary]
    if not parts.kind.labelled:  # test images are looked at once, at the end, where labels train
        examiner = Examiner(judge, parts, Every(parts.clock.steps(config.evals.every), done), recorder)
        boundary.append(examiner.on_boundary)
    return probe, Hooks(logging, boundary)


def describe(parts: Parts, state: TrainState, images: Images, console: Console, folder: Any) -> None:
    """What is about to be trained, in two lines; every parameter by name in parameters.txt of the stage."""
    for line in parts.warnings:
        console.print(f"warning: {line}", style="yellow", highlight=False, soft_wrap=True)
    backbone = parameter_overview.count_parameters(state.params["backbone"])
    rest = parameter_overview.count_parameters(state.params) - backbone
    where = "resident on the device" if images.resident else "decoded as they come"
    network = f"backbone {backbone / 1e6:.2f} M parameters, heads {rest / 1e6:.2f} M"
    sizes = " and ".join(f"{size}" for size in parts.batch_sizes.values())
    length = f"{parts.clock.total} steps of {sizes} on {parts.mesh.size} device(s)"
    what = " and ".join(f"{len(source)} images of {source.name}" for source in parts.streams.values())
    line = f"{what}, {where}; {network}; {length}"
    console.print(line, highlight=False, soft_wrap=True)
    text = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    (folder / "parameters.txt").write_text(text + "\n", encoding="utf-8")
