"""How fast the evaluators are: exact k-NN against faiss, and a low-shot suite at ImageNet's size.

    python benchmarks/evals.py [--part=knn] [--part=lowshot] [--rounds=3] [--train=200000] [--test=10000]

k-NN: 20 neighbours of 384 features by inner product, ours with the vote over 1,000 classes, faiss (`IndexFlatIP` of
faiss-cpu, where it is installed) the search alone, in turns in one process. Seconds are the best turn of each, by the
clock and of the processor: on a machine that does other work only the ratios say something, those of processor seconds
most. Neighbours are compared too.

Low-shot: 1, 2 and 5 images of each of 1,000 classes, and 12,811 images (1 % of ImageNet), three draws each, tested on
`--test` images; lambda as MSN has it, the rest as in `gssl_jax/protocols.py`. Seconds hold compilation. The goal is
120 s on two cores of their own. A float32 product of side 1,024 is timed before and after: how fast the machine was.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gssl_jax.data.subsets import fraction, k_shot
from gssl_jax.evals.knn import knn_scores
from gssl_jax.evals.lowshot import low_shot
from gssl_jax.protocols import evaluation
from gssl_jax.runs.parts import device_words
from gssl_jax.runs.results import versions

SIZE, CLASSES, K = 384, 1000, 20
IN_ALL, PER_CLASS, GOAL = 12_811, 30, 120.0


def clustered(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [count, 384] around 1,000 centres, unit length, and their classes in turn."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, SIZE), np.float32)
    labels = np.arange(count) % CLASSES
    features = centres[labels] + 3 * np.random.default_rng(seed).standard_normal((count, SIZE), np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock, seconds of the processor, and what came out."""
    clock, processor = time.perf_counter(), time.process_time()
    found = jax.block_until_ready(call())
    return time.perf_counter() - clock, time.process_time() - processor, found


def best_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """The least of either time over `rounds` turns, after one to warm up."""
    for call in calls.values():
        jax.block_until_ready(call())
    turns = [{name: timed(call)[:2] for name, call in calls.items()} for _ in range(rounds)]
    return {name: (min(t[name][0] for t in turns), min(t[name][1] for t in turns)) for name in calls}


def knn_report(train_size: int, test_size: int, rounds: int) -> list[str]:
    """Lines of a table."""
    (train, labels), (test, _) = clustered(train_size, 1), clustered(test_size, 2)
    known, classes, asked = jnp.asarray(train), jnp.asarray(labels), jnp.asarray(test)
    options: dict[str, Any] = {"k": K, "temperature": 0.07, "classes": CLASSES}
    calls: dict[str, Callable[[], Any]] = {"knn_scores": lambda: knn_scores(known, classes, asked, **options)}
    installed = importlib.util.find_spec("faiss") is not None
    if installed:
        import faiss

        index = faiss.IndexFlatIP(SIZE)
        index.add(train)
        calls["faiss IndexFlatIP"] = lambda: index.search(test, K)
    found = best_turns(calls, rounds)
    flop = 2.0 * train_size * test_size * SIZE
    lines = [f"k-NN, {train_size:,} x {test_size:,} x {SIZE}, k = {K}, best of {rounds} turns", ""]
    lines += ["| | seconds | processor seconds | GFLOP per processor second |", "|---|---|---|---|"]
    lines += [f"| {name} | {one[0]:.2f} | {one[1]:.2f} | {flop / one[1] / 1e9:.0f} |" for name, one in found.items()]
    if not installed:
        return [*lines, "", "faiss-cpu not installed: nothing to compare with"]
    ours, theirs = found.values()
    near = index.search(test[:1000], K)[1]
    votes = np.stack([np.bincount(labels[row], minlength=CLASSES) for row in near])
    equal = np.asarray(knn_scores(known, classes, asked[:1000], **options | {"temperature": 1e6})) * K
    same = float((np.abs(votes - equal).max(1) < 0.01).mean())
    lines += [f"| ratio | {ours[0] / theirs[0]:.2f} | {ours[1] / theirs[1]:.2f} | |", ""]
    words = f"The same votes for {100 * same:.1f} % of 1,000 test images"
    return [*lines, f"{words}; others have two neighbours that are equally near to the last digit."]


def lowshot_report(test_size: int) -> list[str]:
    """Lines of a table."""
    train, labels = clustered(CLASSES * PER_CLASS, 1)
    test, wanted = clustered(test_size, 2)
    low = evaluation("", "", "", "", 0).lowshot
    options = {"strength": low.l2, "folds": 0, "grid": (), "transductive": low.msn_transductive, "classes": CLASSES,
               "max_iterations": low.max_iterations, "tolerance": low.tolerance, "seed": 0}  # fmt: skip
    draws = {f"{k} per class": [k_shot(labels, k, 0, d) for d in range(3)] for k in (1, 2, 5)}
    draws["1 %"] = [fraction(labels, IN_ALL / len(train), (0, d)) for d in range(3)]
    x = jax.random.normal(jax.random.key(0), (1024, 1024))
    product = jax.jit(jnp.matmul)
    timed(lambda: product(x, x))
    before = min(timed(lambda: product(x, x))[0] for _ in range(20))
    lines = [f"Low-shot, {CLASSES} classes, {SIZE} features, three draws each, {test_size:,} test images", ""]
    lines += ["| | images | seconds | processor seconds | accuracy | converged |", "|---|---|---|---|---|---|"]
    total = np.zeros(2)
    for name, rows in draws.items():
        clock, processor, found = timed(lambda rows=rows: low_shot(train, labels, test, wanted, rows, **options))
        total += clock, processor
        shown = f"{clock:.1f} | {processor:.1f} | {found.correct.mean():.3f} | {found.converged} of 3"
        lines.append(f"| {name} | {len(rows[0]):,} | {shown} |")
    after = min(timed(lambda: product(x, x))[0] for _ in range(20))
    lines.append(f"| all (goal {GOAL:.0f} s on two cores) | | {total[0]:.1f} | {total[1]:.1f} | | |")
    rates = [2 * 1024**3 / seconds / 1e9 for seconds in (before, after)]
    return [*lines, "", f"Float32 product of side 1,024: {rates[0]:.0f} GFLOP/s before, {rates[1]:.0f} after."]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--part", action="append", choices=("knn", "lowshot"), help="what to measure; default: both")
    flags.add_argument("--rounds", type=int, default=3, help="turns of k-NN and faiss; the best of each is reported")
    flags.add_argument("--train", type=int, default=200_000, help="training images of k-NN")
    flags.add_argument("--test", type=int, default=10_000, help="test images")
    given = flags.parse_args()
    parts = given.part or ["knn", "lowshot"]
    lines = knn_report(given.train, given.test, given.rounds) if "knn" in parts else []
    lines += [""] * bool(lines) + lowshot_report(given.test) if "lowshot" in parts else []
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    print("\n".join([*lines, "", f"{device_words()}; {found}"]))


if __name__ == "__main__":
    main()
