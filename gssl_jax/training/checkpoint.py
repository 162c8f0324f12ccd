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

    def restore(self, abstract: TrainState, sharding: Sharding) -> tuple[TrainState, dict[str, Any]]:
        """The latest state on the devices of `sharding`, and the stream's state.

        `abstract` gives structure, shapes and dtypes (`jax.eval_shape`). Raises UserError where the checkpoint does
        not hold exactly these arrays.
        """
        target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), abstract)
        newest = self._checkpointer.latest
        assert newest is not None, "restore without a checkpoint"
        where = f"checkpoint {newest.step} in {self._checkpointer.directory}"
        try:
            state = self._checkpointer.load_checkpointables(newest.step, {"state": target})["state"]
        except (ValueError, KeyError) as problem:
            reason = str(problem).splitlines()[0]
            raise UserError(f"{where} does not fit this run's network ({reason}): use another --workdir") from problem
        missing = [jax.tree_util.keystr(p) for p, x in jax.tree.leaves_with_path(state) if not isinstance(x, jax.Array)]
        if missing:
            raise UserError(f"{where} lacks {missing[0]} and {len(missing) - 1} more: use another --workdir")
        metadata = self._checkpointer.metadata(newest.step).custom_metadata
        return state, dict(metadata["stream"])

    def close(self) -> None:
        """Waits for the save in flight."""
        self._checkpointer.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
