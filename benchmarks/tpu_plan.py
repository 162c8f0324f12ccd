"""What the papers' recipes need on TPU slices, by `python -m gssl_jax.plan`: the table of docs/results/tpu.md.

    pip install "jax[tpu]"
    python benchmarks/tpu_plan.py [--recipe=NAME] [--topology=NAME] [--quick] [--folder=DIR]

Every pair is a process of its own, a minute or two for each batch that it looks at; its numbers are kept in the folder
(runs/tpu_plan without --folder) and not made again. The data are imagined: 1,281,167 images of 1,000 classes for
ImageNet-1K, 50,000 of 10 for CIFAR-10. No TPU is needed, and nothing is timed but the compilation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gssl_jax.knobs import gib

IMAGENET, CIFAR = (1_281_167, 1_000), (50_000, 10)
RECIPES = {
    "MaskCluster ViT-S/16": ("configs/maskcluster_vit.py:imagenet", IMAGENET),
    "MaskCluster ViT-B/16": ("configs/maskcluster_vit.py:imagenet,backbone=vit_b16", IMAGENET),
    "HPT MoCo-v2 ResNet-50": ("configs/hpt_moco.py:imagenet", IMAGENET),
    "G-SSL ResNet-32": ("configs/gated_cifar_lt.py:cifar10", CIFAR),
}
"""Name -> recipe with preset, and images and classes of its data."""

TOPOLOGIES = ("v5e:2x4", "v6e:2x4", "v5p:4x4x8")


def planned(recipe: str, topology: str, quick: bool, folder: Path) -> dict[str, Any]:
    """The numbers of a pair; `problem` where the plan was refused or broke, `seconds` of the process."""
    path = folder / (
        "-".join((recipe, topology, "quick" if quick else "all")).replace(" ", "_").replace("/", "") + ".json"
    )
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    config, (images, classes) = RECIPES[recipe]
    command = [sys.executable, "-m", "gssl_jax.plan", f"--config={config}", f"--topology={topology}"]
    command += [f"--images={images}", f"--classes={classes}", f"--json={path}", *(["--quick"] if quick else [])]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if not path.exists():
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing said"]
        return {"problem": said[-1], "seconds": seconds}
    found = json.loads(path.read_text(encoding="utf-8")) | {"seconds": seconds}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return dict(found)


def row(recipe: str, topology: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    if "problem" in found:
        return f"| {recipe} | {topology} | {found['problem']} |" + " |" * 7
    each = found["batch"] / found["devices"]
    memory = f"{gib(found['bytes'])} of {gib(found['bytes_there'])}" if found["bytes"] else "too much"
    largest = "" if found["largest_batch"] is None else f"{found['largest_batch']:,}"
    cells = [recipe, topology, f"{found['batch']:,} ({each:g})", memory if found["fits"] else f"no: {memory}", largest]
    if found["fits"]:
        least = found["least_seconds"]
        slowest = max(least, key=lambda name: least[name])
        moved = sum(one["bytes"] for one in found["collectives"].values())
        cells += [f"{found['flops'] / 1e12:.2f}", f"{found['bytes_touched'] / 1e9:.1f}", f"{moved / 1e6:,.0f}"]
        cells += [f"{1e3 * least[slowest]:.1f} ({slowest})", f"{found['images_per_second_at_most']:,.0f}"]
    else:
        cells += [""] * 5
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--recipe", action="append", choices=list(RECIPES), help="default: all")
    flags.add_argument("--topology", action="append", help=f"default: {', '.join(TOPOLOGIES)}")
    flags.add_argument("--quick", action="store_true", help="not the largest batch")
    flags.add_argument("--folder", type=Path, default=Path("runs/tpu_plan"), help="where the numbers are kept")
    given = flags.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    print("| recipe | slice | batch (a chip) | memory a chip | largest batch | Tflop | GB touched | MB over links "
          "| least ms a step | images/s at most |")  # fmt: skip
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for recipe in given.recipe or RECIPES:
        for topology in given.topology or TOPOLOGIES:
            print(row(recipe, topology, planned(recipe, topology, given.quick, given.folder)), flush=True)


if __name__ == "__main__":
    main()
