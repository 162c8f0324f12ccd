"""A whole run: the chain of stages, the judgement, the results and the pictures for the report."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
from rich.console import Console

from gssl_jax.errors import UserError
from gssl_jax.runs import continuation, lineage, robustness
from gssl_jax.runs.console import report_unreadable
from gssl_jax.runs.evaluation import Judge, log_row
from gssl_jax.runs.folder import RunFolder
from gssl_jax.runs.handover import Handed
from gssl_jax.runs.health import judged_health
from gssl_jax.runs.parts import Parts, assemble, stage_config
from gssl_jax.runs.pictures import draw_pictures
from gssl_jax.runs.results import build_results
from gssl_jax.runs.stage import Outcome, run_stage
from gssl_jax.training import distributed
from gssl_jax.training.mesh import own
from gssl_jax.training.metrics import replace_row


class Finished(NamedTuple):
    """A run that came to its end: its results, and the arrays and class names the report draws from."""

    results: dict[str, Any]
    pictures: dict[str, Any]
    classes: tuple[str, ...]


class Interrupted(NamedTuple):
    """A run that a signal stopped, saved at `step`."""

    signal: int
    step: int


def run(config: ConfigDict, folder: RunFolder, console: Console) -> Finished | Interrupted:
    """Trains every stage of `config.stages` in `folder`, judges the last one's backbone and writes results.json.

    Every stage is assembled and checked before the first one trains. Raises UserError for what cannot work.
    """
    if not config.stages:
        raise UserError("config.stages is empty: name at least one stage")
    chain = [(k, name, assembled(config, k, name)) for k, name in enumerate(config.stages)]
    claim(config, folder, console)
    handed = outcome = None
    settings, begun = folder.read_config(), []
    for number, name, parts in chain:
        begun.append(lineage.of_stage(settings, name, parts, handed))
        lineage.write(folder.stage(number, name) / "lineage.json", begun[-1])
        lineage.write(folder.lineage, {"stages": begun})
        judge = Judge(parts, config.seed)
        outcome = run_stage(parts, number, name, folder, judge, console, handed, judged=number == len(chain) - 1)
        if outcome.signal:
            return Interrupted(outcome.signal, int(outcome.state.step))
        end = outcome.selected
        judged = parts.method.backbone(end.params, end.method_state, parts.config.evals.which)
        handed = Handed(name, judged, end.params, end.method_state)
    assert outcome is not None
    return conclude(config, parts, judge, outcome, folder, name, console)


def assembled(config: ConfigDict, number: int, name: str) -> Parts:
    """The parts of a stage of the chain; one after the first starts from what it is handed and from no file."""
    own = stage_config(config, name)
    if number:
        own.backbone.weights = ""
    continuation.check(own.continuation)
    return assemble(own)


def claim(config: ConfigDict, folder: RunFolder, console: Console) -> None:
    """Makes the folder this run's and prints what changed, if anything; see `RunFolder.claim`.

    Process 0 does so for all. Raises UserError in all of them where it cannot, and where they do not share the folder.
    """
    problem = None
    try:
        if said := folder.claim(config):
            console.print(said, style="yellow", highlight=False)
    except UserError as refused:
        problem = refused
    if distributed.same(problem is not None):
        raise problem or UserError("process 0 has refused; its own words say why")
    if not (folder.shared / folder.config.name).exists():
        raise UserError(
            f"process {jax.process_index()} does not see {folder.shared}, which process 0 has made: --workdir has to "
            "lie on a disk that all hosts share"
        )


def conclude(
    config: ConfigDict, parts: Parts, judge: Judge, outcome: Outcome, folder: RunFolder, stage: str, console: Console
) -> Finished:
    """Evaluation of the trained backbone and of the controls, results.json, and the pictures."""
    started = time.perf_counter()
    state, selected, untrained = own((outcome.state, outcome.selected, outcome.untrained), parts.mesh)
    outcome = outcome._replace(state=state, selected=selected, untrained=untrained)
    chosen, last = outcome.selected, outcome.state
    variables = parts.method.backbone(chosen.params, chosen.method_state, parts.config.evals.which)
    console.print(
        "evaluating the trained backbone, the untrained one and raw pixels ..."
        if judge.labelled or judge.segmented
        else "no labels: health and report only",
        highlight=False,
    )
    trained = judge.classify(chosen.params, chosen.method_state) | judge.judge(variables)
    trained |= judge.teach(variables) | robustness.judge(judge, variables)
    if int(chosen.step) != int(last.step):
        entries = judge.classify(last.params, last.method_state)
        trained |= {f"last/{name}": entry for name, entry in entries.items()}
    steps = int(last.step)
    measured = {
        "seed": config.seed,
        "steps": steps,
        "selected_step": int(chosen.step),
        "seconds": outcome.seconds,
        "images_per_second": steps * sum(parts.batch_sizes.values()) / max(outcome.seconds, 1e-9),
        "skipped_steps": int(last.skipped),
        "started_from": outcome.origin,
        "continuation": outcome.watched,
    }

    def write(controls: dict[str, Any], health: Any) -> dict[str, Any]:
        taken = {
            "unreadable_images": {"train": len(outcome.images.broken), "eval": len(judge.broken)},
            "evaluation_seconds": time.perf_counter() - started,
        }
        results = build_results(parts, config, trained, controls, measured | taken, variables) | {"health": health}
        folder.write_results(results)
        return results

    # Should a control fail, what the training was for is not lost.
    write({"untrained": {}, "pixels": {}} | outcome.controls, {})
    begun = outcome.controls or continuation.refreshed_control(parts, judge, outcome.untrained)
    untrained = judge.judge(outcome.untrained)
    if not outcome.controls:  # else what the stage started from was taught: that is the one to compare with
        untrained |= judge.teach(outcome.untrained) | robustness.judge(judge, outcome.untrained)
    backbones = {"trained": variables, "untrained": outcome.untrained}
    health = judged_health(judge, parts.config.data, backbones, folder.metrics, stage)
    results = write({"untrained": untrained, "pixels": judge.judge_pixels()} | begun, health)
    report_unreadable(outcome.images.broken, judge.broken, console)
    replace_row(folder.metrics, stage, steps, log_row(trained))  # a run that stopped in here is judged again
    pictures = draw_pictures(parts, judge, outcome)
    return Finished(results, pictures, parts.train.classes)
