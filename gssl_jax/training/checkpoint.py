"""Checkpoints of a stage: the state, asynchronously, and beside it where the data stream stood.

All of Orbax is behind this file (its v1 interface). A checkpoint is committed by a rename, so a process killed while
it saves leaves the one before intact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from gssl_jax.errors import UserError
from gssl_jax.methods.base import MethodState, Params
from gssl_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints in `folder`, of which the last `keep` stay. Close it, or use it as a context."""

    def __init__(self, folder: Path, keep: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            cleanup_tmp_directories=True,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        )

    @property
    def latest(self) -> int | None:
        """The newest complete step, or None. A save still in flight does not count."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, state: TrainState, stream: dict[str, Any]) -> None:
        """Starts saving `state` and the state of the data streams (JSON); returns once the arrays are copied.

        Waits for a save in flight first. A step that is already there is left alone: the state of a step is a
        function of the run, and overwriting one that is being written would destroy both.
        """
        self._checkpointer.wait()
        step = int(state.step)
        if step != self.latest:
            self._checkpointer.save_checkpointables_async(
                step, {"state": state}, force=True, custom_metadata={"stream": stream}
            )

    def restore(self, abstract: TrainState, sharding: Any) -> tuple[TrainState, dict[str, Any]]:
        """The latest state on the devices of `sharding`, one or a tree of them, and the stream's state; they need not
        be those that it was saved from.

        `abstract` gives structure, shapes and dtypes (`jax.eval_shape`). Raises UserError where the checkpoint does
        not hold exactly these arrays or cannot be read.
        """
        newest = self._checkpointer.latest
        assert newest is not None, "restore without a checkpoint"
        where = f"checkpoint {newest.step} in {self._checkpointer.directory}"
        places = jax.tree.map(lambda _: sharding, abstract) if isinstance(sharding, Sharding) else sharding
        target = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, places)
        try:
            stored = self._checkpointer.metadata(newest.step)
            # Orbax would cast silently, and its own words about a tree that differs fill pages. A damaged checkpoint
            # has no metadata here; loading it says why.
            held = _arrays(stored.metadata)
            different = _difference(held, _arrays(abstract)) if held else ""
            if different:
                raise UserError(f"{where} does not fit this run's network: {different}; use another --workdir")
            state = self._checkpointer.load_checkpointables(newest.step, {"state": target})["state"]
            return state, dict(stored.custom_metadata["stream"])
        except UserError:
            raise
        except (ValueError, KeyError, OSError) as problem:
            raise UserError(
                f"{where} cannot be read ({_reason(problem)}): remove its folder to go on from the one before, or use "
                f"another --workdir"
            ) from problem

    def restore_weights(self, sharding: Sharding) -> tuple[int, Params, MethodState]:
        """Step, params and method state of the latest checkpoint, in the shapes they were saved in; the optimiser's
        arrays are not read. Raises UserError where they cannot be."""
        newest = self._checkpointer.latest
        assert newest is not None, "restore without a checkpoint"
        names = ("params", "method_state")
        try:
            held = self._checkpointer.metadata(newest.step).metadata
            target = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
                {name: held[name] for name in names},
            )
            context = ocp.Context()
            context.pytree.loading.partial_load = True
            with context:
                state = self._checkpointer.load_checkpointables(newest.step, {"state": target})["state"]
        except (ValueError, KeyError, TypeError, OSError) as problem:
            where = f"checkpoint {newest.step} in {self._checkpointer.directory}"
            raise UserError(f"{where} cannot be read ({_reason(problem)})") from problem
        return newest.step, state["params"], state["method_state"]

    def latest_extra(self) -> dict[str, Any]:
        """What was saved beside the newest complete state."""
        newest = self._checkpointer.latest
        assert newest is not None, "nothing was saved"
        return dict(self._checkpointer.metadata(newest.step).custom_metadata["stream"])

    def finish(self) -> None:
        """Waits for the save in flight."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits for the save in flight and ends."""
        self._checkpointer.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _arrays(tree: Any) -> dict[str, str]:
    """Path -> shape and dtype in words; a random key counts as the integers it is stored as."""

    def words(leaf: Any) -> str:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return f"{leaf.dtype} {list(leaf.shape)}"

    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): words(leaf) for path, leaf in leaves}


def _difference(stored: dict[str, str], wanted: dict[str, str]) -> str:
    """The first array in which the two differ, in words; empty where they do not."""
    names = [name for name in {**wanted, **stored} if stored.get(name) != wanted.get(name)]
    if not names:
        return ""
    there, here = (arrays.get(names[0], "not there") for arrays in (stored, wanted))
    more = f", and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]} is {there} in the checkpoint and {here} in this run{more}"


def _reason(problem: BaseException) -> str:
    """The first line of the error that started it all, cut to a readable length."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return lines[0][:160]
