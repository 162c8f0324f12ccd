"""The backbone that a finished run's results are of, from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.runs import continuation
from gssl_jax.runs.folder import RunFolder
from gssl_jax.runs.parts import stage_config
from gssl_jax.training.checkpoint import Checkpoints


def finished(run: Path) -> tuple[RunFolder, dict[str, Any]]:
    """The folder and its results. Raises UserError where `run` is no run folder, or its run is not finished."""
    folder = RunFolder(run)
    if not folder.config.is_file():
        raise UserError(f"{run} is no run folder (it has no config.json): give the --workdir of a run")
    results = folder.read_results()
    if results is None:
        raise UserError(f"{run} is not finished: start it again with its own command, it goes on where it stopped")
    return folder, results


def last_stage(folder: RunFolder) -> tuple[int, str, ConfigDict]:
    """Number, name and settings of the last stage of the run, whose backbone its results are of.

    Raises AttributeError or KeyError where the configuration is of a version with other stages, see `unusable`."""
    config = ConfigDict(tuples(folder.read_config()))
    return len(config.stages) - 1, config.stages[-1], stage_config(config, config.stages[-1])


def unusable(folder: RunFolder, results: dict[str, Any], problem: Exception) -> UserError:
    """The error for a configuration in which a knob is new, or gone, since the run."""
    words, version = " ".join(str(problem).split())[:80], results["run"]["versions"]["gssl_jax"]
    return UserError(f"{folder.config} cannot be used here ({words}); the run is of version {version}")


def selected(folder: RunFolder, results: dict[str, Any], number: int, stage: str) -> tuple[int, Any, Any]:
    """Step, params and method state that the results are of, on the CPU. Raises UserError where they are gone."""
    wanted = results["run"]["selected_step"]
    step, params, state = stored(folder, number, stage, wanted)
    if step != wanted:
        raise UserError(
            f"{folder.path} holds the weights of step {step} and its results are of step {wanted}: "
            f"they are not what was measured"
        )
    return step, params, state


def stored(folder: RunFolder, number: int, stage: str, wanted: int) -> tuple[int, Any, Any]:
    """Step, params and method state of the checkpoint that validation images, or the watch, chose at step `wanted`,
    else of the last one."""
    last, watched = folder.checkpoints(number, stage), continuation.best(folder.stage(number, stage))
    for place in [place for place in (folder.best(number, stage), watched, last) if place.is_dir()]:
        with Checkpoints(place, 1) as checkpoints:
            if checkpoints.latest == wanted or (place == last and checkpoints.latest is not None):
                return checkpoints.restore_weights(jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0]))
    raise UserError(f"{folder.path} holds no checkpoint of its stage {stage}")


def tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were in the configuration."""
    if isinstance(value, dict):
        return {name: tuples(inner) for name, inner in value.items()}
    return tuple(tuples(inner) for inner in value) if isinstance(value, list) else value
