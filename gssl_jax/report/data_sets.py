"""What `python -m gssl_jax.dataset` says of a data set, and how it writes one as shards."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gssl_jax.data import inspection, prepare
from gssl_jax.data.inspection import Found, Split
from gssl_jax.data.sources import KINDS, Source, kind_of, open_source
from gssl_jax.errors import UserError, unknown

PICTURES, COLUMNS = 48, 12
"""Small pictures of each split on the contact sheet, and of these in a row."""

CLASSES_SHOWN, NAMES_SHOWN = 20, 5
FEW = 5
"""Images of a class up to which it is named as a small one."""

SPLITS = ("train", "val", "test")


def opened(where: str, holdout: float, splits: tuple[str, ...]) -> dict[str, Source]:
    """The splits that `where`, `PATH` or `KIND:PATH`, has images for; those of `splits`, all of `SPLITS` where empty.

    Raises UserError for a kind that is not known, and as the source does.
    """
    kind, separator, path = where.partition(":")
    if not separator or Path(where).expanduser().exists():
        kind, path = kind_of(where), where
    if kind not in KINDS:
        raise unknown("kind of source", kind, KINDS)
    data = ConfigDict({"seed": 0, "holdout": holdout, "channels": 3, "image_size": 32, "contrast_normalise": False})
    settings = ConfigDict({"source": kind, "path": path})
    found: dict[str, Source] = {}
    for split in splits or SPLITS:
        if (
            split == "val"
            and not splits
            and kind in ("folder", "masks", "photos", "digits", "earth", "mosaics", "tfds")
        ):
            continue  # these have two splits
        try:
            source = open_source(settings, split, data)
        except UserError:
            if splits or split == "train":
                raise
            continue
        same = any(source.fingerprint() == one.fingerprint() for one in found.values())
        if len(source) and not (same and not splits):
            found[split] = source
    if not found:
        raise UserError(f"{where} has no images")
    return found


def progress(console: Console) -> Progress:
    """The line that shows how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def write_shards(values: Mapping[str, str], where: str, console: Console) -> None:
    """`dataset prepare`: makes the shards that fall to this job and, where none is missing then, the manifest."""
    options = prepare.Options(
        whole(values, "side"), values["encode"], whole(values, "quality"), whole(values, "shards")
    )
    prepare.check(options)
    part, parts = share(values["shard"])
    folder = Path(values["out"]).expanduser()
    if not values["out"]:
        raise UserError("prepare needs --out=DIR, the folder of the shards")
    sources = opened(where, fraction(values, "holdout"), names(values["splits"]))
    limits = {split: max(1, int(fraction(values, "max_broken") * len(source))) for split, source in sources.items()}
    folder.mkdir(parents=True, exist_ok=True)
    shards = prepare.layout(sources, options)
    mine = [shard for place, shard in enumerate(shards) if place % parts == part]
    origin = {split: prepare.made_from(source, options) for split, source in sources.items()}
    threads = whole(values, "threads") or os.cpu_count() or 1
    done, made = 0, 0
    broken: dict[str, list[str]] = {split: [] for split in sources}
    with progress(console) as bar:
        task = bar.add_task("images", total=sum(shard.last - shard.first for shard in mine))
        for shard in mine:
            said = prepare.whole(shard, folder, origin[shard.split])
            if said is not None:
                bar.advance(task, shard.last - shard.first)
                broken[shard.split] += said["broken"]
                done += 1
                continue
            broken[shard.split] += prepare.make(
                sources[shard.split], shard, folder, options, origin[shard.split], threads,
                lambda count: bar.advance(task, count),
            )  # fmt: skip
            made += 1
            if len(broken[shard.split]) > limits[shard.split]:
                raise UserError(
                    f"{len(broken[shard.split])} images of {shard.split} cannot be read, {limits[shard.split]} are "
                    f"allowed (--max_broken): {'; '.join(broken[shard.split][:NAMES_SHOWN])}; repair or remove them"
                )
    manifest = prepare.merged(sources, shards, folder)
    console.print(f"{made} shards made, {done} were there, of {len(shards)} in all", highlight=False)
    for split, lines in broken.items():
        for line in lines[:NAMES_SHOWN]:
            console.print(f"  unreadable in {split}: {line}", style="yellow", highlight=False, soft_wrap=True)
        if len(lines) > NAMES_SHOWN:
            console.print(f"  and {len(lines) - NAMES_SHOWN} more, named in the .json of the shards", highlight=False)
    if manifest is None:
        console.print("the manifest is written by the job that finds all of them", highlight=False)
    else:
        console.print(f"{manifest}\n  read it with :folder,path={folder}", highlight=False, soft_wrap=True)


def inspect(values: Mapping[str, str], where: str, console: Console) -> None:
    """`dataset inspect`: tables and warnings on the console, a contact sheet, and all of it as JSON where asked for."""
    sources = opened(where, fraction(values, "holdout"), names(values["splits"]))
    count, threads = whole(values, "images"), whole(values, "threads") or os.cpu_count() or 1
    with progress(console) as bar:
        task = bar.add_task("images", total=sum(min(count or len(one), len(one)) for one in sources.values()))
        found = inspection.inspect(sources, count, threads, PICTURES, lambda seen: bar.advance(task, seen))
    console.print(table(found))
    if found.classes:
        console.print(class_table(found))
    for line in remarks(found):
        console.print(line, style="yellow", highlight=False, soft_wrap=True)
    out = Path(values["out"] or "runs/inspect").expanduser()
    out.mkdir(parents=True, exist_ok=True)
    for name, split in found.splits.items():
        file = out / f"{name}.png"
        cv2.imwrite(str(file), cv2.cvtColor(inspection.sheet(split, COLUMNS), cv2.COLOR_RGB2BGR))
        console.print(f"contact sheet: {file}", highlight=False, soft_wrap=True)
    if values["json"]:
        Path(values["json"]).write_text(json.dumps(numbers(found), indent=1) + "\n", encoding="utf-8")


def table(found: Found) -> Table:
    """A line for each split; of the sides the least, the median of the shorter ones and the most."""
    drawn = Table(box=box.SIMPLE, title_justify="left")
    for heading in ("split", "images", "sides, px", "channels", "unlabelled", "unreadable"):
        drawn.add_column(heading, justify="left" if heading == "split" else "right")
    for name, split in found.splits.items():
        sides = sorted(min(height, width) for (height, width, *_), n in split.shapes.items() for _ in range(n))
        span = f"{sides[0]} - {sides[len(sides) // 2]} - {max(max(s[:2]) for s in split.shapes)}" if sides else "-"
        kinds = sorted({(channels, dtype) for _, _, channels, dtype in split.shapes})
        channels = ", ".join(f"{count} x {dtype}" for count, dtype in kinds)
        seen = f"{split.images:,}" if split.looked_at + len(split.broken) == split.images else (
            f"{split.looked_at + len(split.broken):,} of {split.images:,}"
        )  # fmt: skip
        drawn.add_row(name, seen, span, channels, f"{split.unlabelled:,}", f"{len(split.broken):,}")
    return drawn


def class_table(found: Found) -> Table:
    """Images of each class by split, the most frequent first; of many classes the first and the last."""
    order = sorted(found.classes, key=lambda name: -sum(split.labels[name] for split in found.splits.values()))
    shown = order
    if len(order) > CLASSES_SHOWN:
        half = CLASSES_SHOWN // 2
        shown = [*order[:half], f"... {len(order) - CLASSES_SHOWN} more", *order[-half:]]
    what = "labels (an image may have several)" if found.multilabel else "classes"
    drawn = Table(box=box.SIMPLE, title=f"{len(order)} {what}", title_justify="left")
    drawn.add_column("class")
    for name in found.splits:
        drawn.add_column(name, justify="right")
    for name in shown:
        counts = [f"{split.labels[name]:,}" if name in found.classes else "" for split in found.splits.values()]
        drawn.add_row(name, *counts)
    return drawn


def remarks(found: Found) -> list[str]:
    """What a user should know before training."""
    lines = []
    for groups, what in (
        (found.copies, "have the same pixels"),
        (found.alike, "look the same (other size or compression)"),
    ):
        across = found.across(groups)
        if across:
            lines.append(
                f"LEAK: {len(across)} group(s) of images that {what} lie in more than one split, for example "
                f"{_group(across[0])}"
            )
        inside = [one for one in groups if one not in across]
        if inside:
            lines.append(f"{len(inside)} group(s) of images {what}, for example {_group(inside[0])}")
    for name, split in found.splits.items():
        for line in split.broken[:NAMES_SHOWN]:
            lines.append(f"unreadable in {name}: {line}")
        if len(split.broken) > NAMES_SHOWN:
            lines.append(f"and {len(split.broken) - NAMES_SHOWN} more in {name}")
        if split.looked_at and split.grey_in_colour == split.looked_at:
            lines.append(f"{name}: all images are grey, stored in colour: try --config.data.channels=1")
        if len({key[2:] for key in split.shapes}) > 1:
            lines.append(f"{name}: images of different kinds of pixels; data.channels makes them one")
    lines += class_remarks(found)
    return lines


def class_remarks(found: Found) -> list[str]:
    """Small classes, and those that are in one split alone."""
    lines: list[str] = []
    train = found.splits.get("train")
    if train is None or not found.classes:
        return lines
    few = [name for name in found.classes if 0 < train.labels[name] <= FEW]
    if few:
        lines.append(f"{len(few)} class(es) have at most {FEW} images to train on: {_some(few)}")
    none = [name for name in found.classes if not train.labels[name]]
    if none and train.looked_at + len(train.broken) == train.images:
        lines.append(f"{len(none)} class(es) have no image to train on: {_some(none)}")
    test = found.splits.get("test")
    missing = [name for name in found.classes if test is not None and not test.labels[name]]
    if test is not None and missing and test.looked_at + len(test.broken) == test.images:
        lines.append(f"{len(missing)} class(es) have no test image, their accuracy cannot be told: {_some(missing)}")
    return lines


def _some(words: list[str]) -> str:
    more = f" and {len(words) - NAMES_SHOWN} more" if len(words) > NAMES_SHOWN else ""
    return ", ".join(words[:NAMES_SHOWN]) + more


def _group(group: list[tuple[str, str]]) -> str:
    return _some([f"{name} ({split})" for split, name in group])


def numbers(found: Found) -> dict[str, Any]:
    """All that was found, for scripts."""

    def one(split: Split) -> dict[str, Any]:
        shapes = [{"height": h, "width": w, "channels": c, "dtype": d, "images": n} for (h, w, c, d), n in
                  sorted(split.shapes.items())]  # fmt: skip
        named = {"images": split.images, "looked_at": split.looked_at, "unlabelled": split.unlabelled}
        return named | {"shapes": shapes, "labels": dict(split.labels), "broken": split.broken}

    return {
        "classes": list(found.classes),
        "splits": {name: one(split) for name, split in found.splits.items()},
        "copies": found.copies,
        "alike": found.alike,
    }


def names(text: str) -> tuple[str, ...]:
    """Split names, parted by commas."""
    return tuple(one.strip() for one in text.split(",") if one.strip())


def share(text: str) -> tuple[int, int]:
    """`I/N`, the I-th of N jobs from 0, as SLURM_ARRAY_TASK_ID and JOB_COMPLETION_INDEX count. Raises UserError."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise UserError(f"--shard={text}: give I/N, the I-th of N jobs, from 0/N to N-1/N")
    return int(part), int(parts)


def whole(values: Mapping[str, str], name: str) -> int:
    """A flag that is a whole number. Raises UserError."""
    if not values[name].isdigit():
        raise UserError(f"--{name}={values[name]}: give a whole number, 0 for the usual")
    return int(values[name])


def fraction(values: Mapping[str, str], name: str) -> float:
    """A flag that is a share. Raises UserError."""
    try:
        found = float(values[name])
    except ValueError:
        found = np.nan
    if not 0.0 <= found < 1.0:
        raise UserError(f"--{name}={values[name]}: give a share from 0 to below 1")
    return found
