"""Formulas in float64 NumPy and plain loops, written from the papers and apart from the code they check."""

from __future__ import annotations

import numpy as np


def softmax(x):
    e = np.exp(np.float64(x) - np.max(x, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def entropy(p):
    """H of one distribution."""
    return -float(sum(x * np.log(x) for x in np.float64(p) if x > 0))


def cross_entropy(p, logits):
    """H(P, softmax(logits)) of one row."""
    return -float(np.sum(p * np.log(softmax(logits))))


def sinkhorn(log_scores, iterations):
    """The alternation as it is printed: Q is K x B, rows to 1 / K, then columns to 1 / B; [B, K] comes back."""
    q = np.exp(np.float64(log_scores) - np.max(log_scores)).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * q.shape[0]
        q /= q.sum(axis=0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


def targets(name, cosines, centre, temperature, settings, positionwise=False, counted=None):
    """Assignments [B, V, (N,) K] under the control `name`; `settings` is `config.method`. Sinkhorn balances the
    `counted` rows, bool [B, V, (N)], and leaves zeros elsewhere."""
    t = np.float64(cosines)
    if name == "sinkhorn":
        places = [(slice(None), slice(None), n) for n in range(t.shape[2])] if positionwise else [...]
        result = np.empty_like(t)
        for place in places:
            rows = t[place].reshape(-1, t.shape[-1])
            chosen = np.ones(len(rows), bool) if counted is None else counted[place].reshape(-1)
            balanced = np.zeros_like(rows)
            if chosen.any():
                balanced[chosen] = sinkhorn(rows[chosen] / settings.sinkhorn.eps, settings.sinkhorn.iterations)
            result[place] = balanced.reshape(t[place].shape)
        return result
    if name == "memax":
        sharp = softmax(t / settings.temperature.student) ** (1 / settings.memax.sharpen)
        return sharp / sharp.sum(axis=-1, keepdims=True)
    return softmax((t - np.float64(centre) * (name == "centring")) / temperature)


def clustering(settings, taught, learned, centre, temperature, mask=None, keep=None):
    """The class and the patch loss of MaskCluster and the ME-MAX penalties, from cosines of teacher and student.

    mask: bool [B, V, N] where only hidden tokens count; keep: int [B, V, n] where tokens were dropped. Targets are
    balanced over the tokens that count, and so is the penalty.
    """
    visible = None if keep is None else (keep[..., None] == np.arange(taught["patch"].shape[2])).any(axis=2)
    tau, goals = settings.temperature.student, {}
    for level in ("cls", "patch"):
        apart = level == "patch" and settings.sinkhorn.positionwise
        counted = (mask if keep is None else visible) if level == "patch" else None
        goals[level] = targets(
            settings.collapse[level], taught[level], centre[level], temperature, settings, apart, counted
        )
    batch, views = goals["cls"].shape[:2]
    pairs = [(u, v) for u in range(views) for v in range(learned["cls"].shape[1]) if settings.loss.same_view or u != v]
    cls = [cross_entropy(goals["cls"][b, u], learned["cls"][b, v] / tau) for b in range(batch) for u, v in pairs]
    per_view = []
    for b in range(batch):
        for v in range(views):
            places = range(goals["patch"].shape[2]) if keep is None else keep[b, v]
            costs = [
                cross_entropy(goals["patch"][b, v, n], learned["patch"][b, v, i] / tau) for i, n in enumerate(places)
            ]
            counted = [c for n, c in enumerate(costs) if mask is None or mask[b, v, n]]
            per_view.append(sum(counted) / max(1, len(counted)))
    result = {"train/loss_cls": np.mean(cls), "train/loss_patch": np.mean(per_view)}
    for level in ("cls", "patch"):
        if settings.collapse[level] == "memax":
            p = softmax(learned[level] / tau)
            rows = p.reshape(-1, p.shape[-1]) if level == "cls" or mask is None else p[mask]
            mean = rows.mean(axis=0)
            result[f"train/memax_{level}"] = settings.memax.weight * (np.log(len(mean)) - entropy(mean))
    return result


def patch_aligned(mask, patch: int) -> bool:
    """Whether every patch of masks [..., S, S] is either wholly hidden or wholly visible: the first pixel of each,
    blown up again, is the mask."""
    mask = np.asarray(mask)
    corners = mask[..., ::patch, ::patch]
    return bool((np.repeat(np.repeat(corners, patch, axis=-2), patch, axis=-1) == mask).all())
