"""One stage: from its parts to a trained state, resumable at any step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
from clu import parameter_overview
from jax import Array
from rich.console import Console

from gssl_jax.errors import UserError
from gssl_jax.interop.load import drawn, load_backbone
from gssl_jax.runs import continuation
from gssl_jax.runs.console import Progress
from gssl_jax.runs.continuation import Watch
from gssl_jax.runs.evaluation import Entries, Judge
from gssl_jax.runs.folder import RunFolder
from gssl_jax.runs.gauges import gauge_of
from gssl_jax.runs.handover import Handed, hand_over
from gssl_jax.runs.hooks import Recorder, Saver, make_hooks
from gssl_jax.runs.images import Images, shape_batch
from gssl_jax.runs.memory import check_memory, exhausted
from gssl_jax.runs.parts import Parts
from gssl_jax.runs.selection import Selector
from gssl_jax.training import distributed
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.loop import Every, train
from gssl_jax.training.mesh import in_parts, placed, put_batch
from gssl_jax.training.metrics import JsonLines, TensorBoard, Writer, cut_rows
from gssl_jax.training.optimizer import schedules_of
from gssl_jax.training.signals import StopRequest
from gssl_jax.training.state import TrainState, create_state
from gssl_jax.training.step import StepFunction, gather, make_step


class Outcome(NamedTuple):
    """How a stage ended: its state and the one that validation images or the watch chose (else the same), the untrained
    backbone for comparison, the images it was trained on, seconds of training over all of its starts, and the signal
    that interrupted it (0 = none); `origin` of its backbone in words, the `controls` that were judged before its first
    step, and what the watch found, None without one."""

    state: TrainState
    selected: TrainState
    untrained: Any
    images: Images
    seconds: float
    signal: int
    origin: str
    controls: dict[str, Entries]
    watched: dict[str, Any] | None


def run_stage(
    parts: Parts,
    number: int,
    name: str,
    folder: RunFolder,
    judge: Judge,
    console: Console,
    handed: Handed | None = None,
    judged: bool = True,
) -> Outcome:
    """Trains the stage to its end, to a signal or to where the watch stops it.

    `handed` is the end of the stage before, if there is one; a stage to be `judged`, the last one, has what it starts
    from judged too.
    """
    config, total, samples = parts.config, parts.clock.total, sum(parts.batch_sizes.values())
    origin, place = continuation.origin(parts, handed), folder.stage(number, name)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder.checkpoints(number, name), config.run.keep_checkpoints))
        done = checkpoints.latest or 0
        images = Images.load(parts)
        batches = stack.enter_context(images.batches(done))
        places = state_places(parts, images)
        begun = start(parts, checkpoints, images, handed, console, places)
        state, controls = begun.state, {}
        describe(parts, state, images, console, place)
        if judged and origin != continuation.SCRATCH:
            controls = continuation.judged_start(folder.kept(number, name), parts, judge, begun.first, console, origin)
        cut_rows(folder.metrics, name, done if checkpoints.latest is not None else -1)
        writers: list[Writer] = [JsonLines(folder.metrics)]
        if config.run.tensorboard and distributed.first():
            writers.append(TensorBoard(folder.tensorboard, done))
        for writer in writers:
            stack.callback(writer.close)
        progress = Progress(console, name, total, samples)
        recorder = Recorder(name, writers, progress)
        watch = None
        watchable = origin != continuation.SCRATCH and total > 0
        if watchable and (gauge := gauge_of(judge, config.continuation)) is not None:
            kept = stack.enter_context(Checkpoints(continuation.best(folder.kept(number, name)), 1))
            watch = Watch(parts, gauge, kept, done, recorder.emit, begun.extra.get("watch"))
            watch.begin(state)
        saver = Saver(checkpoints, images, Every(config.run.checkpoint_every, done), begun.seconds, watch)
        probe, hooks = make_hooks(parts, recorder, judge, begun.untrained, progress, saver, done)
        selector = None
        if parts.validation is not None:
            best = stack.enter_context(Checkpoints(folder.best(number, name), 1))
            every = Every(parts.clock.steps(config.evals.every), done)
            selector = Selector(judge, best, every, total, recorder.emit, progress.say)
            hooks = hooks._replace(on_boundary=[*hooks.on_boundary, selector.on_boundary])
        step_for = step_maker(parts, places)
        if done < total:
            check_memory(parts, step_for, state, images.resident, console)
        with progress, StopRequest() as request:
            told: list[int] = []
            dispatches = max(1, config.run.log_every // config.run.steps_per_dispatch)  # of an interval
            wish = distributed.agreed(lambda: request.asked, dispatches)

            def asked_to_stop() -> bool:
                if number := wish():
                    told.append(number)
                return bool(told) or has_fallen(watch)

            try:
                stop = train(
                    state,
                    step_for,
                    batches,
                    images.resident,
                    parts.mesh,
                    total=total,
                    batch_size=samples,
                    hooks=hooks,
                    log_every=config.run.log_every,
                    dispatch=config.run.steps_per_dispatch,
                    asked_to_stop=asked_to_stop,
                )
            except jax.errors.JaxRuntimeError as problem:  # a program that fits may still find the device half full
                if refused := exhausted(parts, state, images.resident, problem):
                    raise refused from problem
                raise
            probe.finish()
        trained = int(stop.state.step) > done
        seconds = saver.seconds if trained else begun.seconds
        selected = stop.state
        if has_fallen(watch):
            selected = watch.restored(selected, places)
        if selector is not None and (has_fallen(watch) or not stop.interrupted):
            selected = selector.selected(selected, places)
        if has_fallen(watch) and trained:
            recorder.emit(int(stop.state.step), {"alarm": watch.sentence(int(selected.step), origin)})
        elif has_fallen(watch):
            progress.say(watch.sentence(int(selected.step), origin), style="bold red")
        if done < total or checkpoints.latest is None:  # a stage without a step too is handed on, and exported
            saver.save(stop.state)
    if stop.state.skipped:
        skipped = f"{int(stop.state.skipped)} steps were not finite and changed nothing: lower optim.learning_rate"
        console.print(skipped, style="yellow")
    signal = told[0] if stop.interrupted and told else 0
    watched = None if watch is None else watch.report(int(selected.step))
    return Outcome(stop.state, selected, begun.untrained, images, seconds, signal, origin, controls, watched)


def has_fallen(watch: Watch | None) -> TypeGuard[Watch]:
    """Whether there is a watch and it has stopped the stage."""
    return watch is not None and watch.stopped_step is not None


class Begun(NamedTuple):
    """The state a stage goes on with, `first() -> ` that of step 0, the untrained backbone, and what was saved beside
    the checkpoint (empty without one)."""

    state: TrainState
    first: Callable[[], TrainState]
    untrained: Any
    extra: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Trained before."""
        return float(self.extra["seconds"]) if self.extra else 0.0


def fresh_state(parts: Parts, images: Images) -> Callable[[Any, Array], TrainState]:
    """(batch, key) -> a new state, to be jitted with its places."""

    def fresh(batches: Any, key: Array) -> TrainState:
        return create_state(parts.method, parts.optimiser, gather(images.resident, batches), key)

    return fresh


def state_places(parts: Parts, images: Images) -> Any:
    """The shardings of the state of a stage, see `in_parts`."""
    batch = put_batch(shape_batch(parts), parts.mesh)
    return in_parts(jax.eval_shape(fresh_state(parts, images), batch, jax.random.key(0)), parts.mesh)


def start(
    parts: Parts, checkpoints: Checkpoints, images: Images, handed: Handed | None, console: Console, places: Any
) -> Begun:
    """The state to begin with, laid out as `places` say, and what goes with it.

    The order: 1. resume from the stage's own checkpoint; 2. what the stage before hands over; 3. published weights,
    `backbone.weights`; 4. from scratch.
    """
    config, fresh = parts.config, fresh_state(parts, images)
    batch = put_batch(shape_batch(parts), parts.mesh)
    key = jax.random.key(config.seed)
    fresh_on_devices = jax.jit(fresh, out_shardings=places)
    state = fresh_on_devices(batch, key)
    untrained = jax.tree.map(jnp.copy, parts.method.backbone(state.params, state.method_state, "teacher"))
    if checkpoints.latest is not None:
        state, extra = checkpoints.restore(jax.eval_shape(fresh, batch, key), places)
        check_stream(extra["train"], images, int(state.step))
        step, total = int(state.step), parts.clock.total
        words = f"going on at step {step} of {total}" if step < total else f"trained before, all {total} steps"
        console.print(words, highlight=False)
        quiet = Console(quiet=True)
        return Begun(state, lambda: given(parts, fresh_on_devices(batch, key), handed, quiet, places), untrained, extra)
    state = given(parts, state, handed, console, places)
    return Begun(state, lambda: state, untrained, {})


def given(parts: Parts, state: TrainState, handed: Handed | None, console: Console, places: Any) -> TrainState:
    """A fresh state with what the stage before hands over or, without one, with the weights of a file."""
    if handed is not None:
        state = hand_over(state, handed, parts.config.method.hand_over)
    elif parts.config.backbone.weights:
        state = published(parts, state, console)
    return placed(state, places)


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


def step_maker(parts: Parts, places: Any = None) -> Any:
    """Number of steps -> the jitted step for it, made once; `places` as for `make_step`."""
    made: dict[int, StepFunction] = {}
    schedules = schedules_of(parts.config.optim, parts.clock)

    def step_for(n: int) -> StepFunction:
        if n not in made:
            made[n] = make_step(parts.method, parts.optimiser, parts.mesh, n, schedules, places)
        return made[n]

    return step_for


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
