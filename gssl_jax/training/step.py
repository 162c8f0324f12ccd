"""One training step: views, loss, gradient, update, teacher; nothing changes where a number is not finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu.metrics import Average
from jax import Array
from jax.sharding import Mesh

from gssl_jax.methods.base import Batches, Method
from gssl_jax.ops.keys import named
from gssl_jax.training.mesh import gathered, replicated
from gssl_jax.training.state import TrainState

Metrics = dict[str, Average]
Resident = Mapping[str, Mapping[str, Array]]
StepFunction = Callable[[TrainState, Resident, Any], tuple[TrainState, Metrics]]


def gather(resident: Resident, batches: Batches) -> dict[str, Mapping[str, Array]]:
    """Batches that carry only `index` get images and labels from the arrays that live on the device: of each stream
    `image` [N, S, S, C] and, where it is labelled, `label` [N]."""

    def filled(held: Mapping[str, Array], batch: Mapping[str, Array]) -> Mapping[str, Array]:
        found = {name: values[batch["index"]] for name, values in held.items()}
        return {**batch, **found, "image": found["image"][:, None]}

    return {name: batch if "image" in batch else filled(resident[name], batch) for name, batch in batches.items()}


def transition(
    method: Method,
    optimiser: optax.GradientTransformation,
    state: TrainState,
    batches: Batches,
    seen: Callable[[Any], Any] = lambda held: held,
) -> tuple[TrainState, dict[str, Array], Array]:
    """(state, batches) -> (next state, metrics, finite). A step that is not finite keeps parameters, teacher,
    centres and moments; its samples count as seen and it is counted in `skipped`. What the loss sees of parameters and
    method state goes through `seen` first."""
    views = method.views(batches, named(state.key, "views"), state.step)
    key = jax.random.fold_in(named(state.key, "loss"), state.step)

    def loss_of(params: Any) -> Any:
        return method.loss(seen(params), seen(state.method_state), views, key, state.step, True)

    (loss, (method_state, metrics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    norm = optax.tree.norm(gradients)
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    method_state = method.after_update(params, method_state, state.step)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    old, new = (state.params, state.method_state, state.opt_state), (params, method_state, opt_state)
    params, method_state, opt_state = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    samples = sum(batch["index"].shape[0] for batch in batches.values())
    after = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        method_state=method_state,
        opt_state=opt_state,
        samples_seen=state.samples_seen + jnp.uint32(samples),
        skipped=state.skipped + (~finite).astype(jnp.int32),
    )
    return after, {**metrics, "train/gradient_norm": norm}, finite


def make_step(
    method: Method,
    optimiser: optax.GradientTransformation,
    mesh: Mesh,
    dispatch: int = 1,
    schedules: Mapping[str, optax.Schedule] = MappingProxyType({}),
    places: Any = None,
) -> StepFunction:
    """The jitted step: (state, resident, batches) -> (state, averages of the metrics over the finite steps).

    `dispatch` > 1 runs that many steps in one call; its batches are stacked in front, [dispatch, B, ...].
    `schedules` are logged as `train/<name>` at the count of the
    optimiser, which skipped steps do not advance. The state is donated. `places` are its shardings (`mesh.in_parts`),
    replicated without them; with an axis `fsdp` of more than 1 every device gathers parameters and teacher for the
    loss, and computes on its own images alone.
    """
    whole = replicated(mesh)

    def one(state: TrainState, resident: Resident, batches: Any) -> tuple[TrainState, Metrics]:
        count = state.step - state.skipped
        now = {f"train/{name}": jnp.asarray(schedule(count)) for name, schedule in schedules.items()}
        state, metrics, finite = transition(
            method, optimiser, state, gather(resident, batches), lambda held: gathered(held, mesh)
        )
        metrics |= now
        return state, {name: Average.from_model_output(value[None], finite[None]) for name, value in metrics.items()}

    def several(state: TrainState, resident: Resident, batches: Any) -> tuple[TrainState, Metrics]:
        state, stacked = jax.lax.scan(lambda s, b: one(s, resident, b), state, batches)
        return state, jax.tree.map(lambda x: jnp.sum(x, axis=0), stacked)

    placed = whole if places is None else places
    return jax.jit(one if dispatch == 1 else several, donate_argnums=0, out_shardings=(placed, whole))


@jax.jit
def merged(total: Metrics, more: Metrics) -> Metrics:
    """Two sets of averages as one."""
    return {name: total[name].merge(more[name]) for name in total}
