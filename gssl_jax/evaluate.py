"""Judge any backbone: `python -m gssl_jax.evaluate --backbone=... --data=... --evals=knn,linear,lowshot`."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from rich.console import Console

from gssl_jax import protocols
from gssl_jax.cli import nearest_keys, parse, refuse, words_and_values
from gssl_jax.errors import UserError, unknown
from gssl_jax.knobs import flat

USAGE = """usage: python -m gssl_jax.evaluate --backbone=[NAME=]WHAT [--backbone=...] [--data=KIND[:PATH]] [--evals=LIST] ...

  --backbone=WHAT      what to judge, once for each column of the table; the first is what the others are compared with:
                         RUN             the folder of a finished run: the backbone that its results are of
                         RUN:untrained   the same before its first step
                         FILE            weights (.safetensors, .pth, ...) of a ViT or ResNet, also of gssl_jax.export
                         vit_small_patch16_224.augreg_in21k   timm's name, or owner/name of the hub, if its weights are
                                         in the caches of this machine (HF_HOME, TORCH_HOME); nothing is fetched
                         random[:SEED]   the network of the first, or of --architecture, untrained
                         pixels          the images themselves
  --data=KIND[:PATH]   labelled images: photos, mosaics, digits, earth:shaded, tfds:NAME, or a path: a folder of images,
                       of lists or of masks, an index (.csv, .jsonl), arrays (.npz), shards
  --config=FILE[:preset]   or a recipe, whose last stage says images and protocols; a run alone brings its own
  --evals=LIST         knn,linear,lowshot (without it); also sgd_linear, finetune, robustness, segmentation (mosaics,
                       masks, earth:coasts-shaded), and health, which needs no labels
  --evals.KEY=VALUE    changes a protocol, e.g. --evals.lowshot.shots="(1, 2, 5, 10)"
  --train=, --test=    splits (train, test)
  --size=, --resize=   side of the images in pixels, and the shorter side before the centre is cut
  --channels=, --mean=, --std=   of weights and random networks, e.g. --mean=0.5,0.5,0.5 (ImageNet's where nothing is said)
  --architecture=NAME, --heads=N   of weights whose shapes do not tell: vit_s16, vit_b16, resnet50, ...
  --allow=PATTERNS     leaves of weights that may be missing or left over, parted by commas
  --seed=N             of draws and random networks (the run's or the recipe's, else 0)
  --out=DIR            results.json, report.html and what was judged before (runs/evaluate/NAMES without it); the same
                       command goes on where it was interrupted
  --debug              a traceback where something is refused
  --help               this text
"""  # noqa: E501

DEFAULTS = {
    "data": "", "config": "", "evals": "knn,linear,lowshot", "train": "", "test": "", "size": "", "resize": "",
    "channels": "", "mean": "", "std": "", "architecture": "", "heads": "", "allow": "", "seed": "", "out": "",
}  # fmt: skip

LONGEST_NAME = 60
"""Letters of the folder that is made without --out."""


class Options(NamedTuple):
    """What the command line says: backbones by name, the other flags as text, and the changed protocols."""

    backbones: dict[str, str]
    values: dict[str, str]
    changes: dict[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Judges the backbones of the command line; returns the exit code (0 judged, 2 refused)."""
    argv = list(sys.argv if argv is None else argv)
    try:
        options = read(argv)
        if options is None:
            return 0
        return evaluate(options, Console(soft_wrap=True))
    except UserError as problem:
        if "--debug" in argv:
            raise
        return refuse(problem)
    except KeyboardInterrupt:
        print("interrupted; what was judged is kept, the same command goes on there", file=sys.stderr)
        return 130


def read(argv: Sequence[str]) -> Options | None:
    """The options of `argv` (program name first), or None after printing the help.

    Raises UserError for a flag that is not known, naming the nearest one, a word that is none, and a name given twice.
    """
    backbones: dict[str, str] = {}
    changes: dict[str, str] = {}
    rest = list(argv[:1])
    for argument in argv[1:]:
        flag, separator, value = argument.partition("=")
        if flag == "--backbone" and value:
            name, what = named(value)
            if name in backbones:
                raise UserError(f"two backbones are called {name!r}: tell them apart by --backbone=NAME={what}")
            backbones[name] = what
        elif flag.startswith("--evals.") and separator:
            changes[flag.removeprefix("--evals.")] = value
        else:
            rest.append(argument if flag != "--backbone" else "--backbone")
    if len(argv) > 1 and len(rest) == 1:
        rest.append("--debug")  # nothing else was given, which is not a call for help
    found = words_and_values(rest, USAGE, {**DEFAULTS, "backbone": "", "evals.KEY": ""})
    if found is None:
        return None
    words, values = found
    if words:
        raise UserError(f"{words[0]!r} is not a flag: options begin with --, see --help")
    if not backbones:
        raise UserError("no backbone: give --backbone=RUN, --backbone=FILE, --backbone=random, ...; see --help")
    return Options(backbones, values, changes)


def named(argument: str) -> tuple[str, str]:
    """Name and what of `WHAT` or `NAME=WHAT`; a path with an equals sign is still a path."""
    name, separator, what = argument.partition("=")
    if not separator or Path(argument).exists():
        name, what = "", argument
    if name:
        return name, what
    path = Path(what.removesuffix(":untrained"))
    if path.is_dir():
        return f"{path.resolve().name}{' untrained' if what.endswith(':untrained') else ''}", what
    return (path.stem if path.is_file() else what.replace(":", "-")), what


def evaluate(options: Options, console: Console) -> int:
    """Judges, writes results and report, and prints the table."""
    from gssl_jax.report.judged import table_of, write_judged  # here, so that a mistyped flag is told at once
    from gssl_jax.runs import candidates, judging

    values = options.values
    names = [name.strip() for name in values["evals"].split(",") if name.strip()]
    base = images_and_protocols(options)
    base.evals = changed(base.evals, options.changes)
    judging.chosen(names, base.evals)
    asked = candidates.Asked(
        size=whole(values, "size"),
        resize=whole(values, "resize"),
        channels=whole(values, "channels"),
        heads=whole(values, "heads"),
        mean=numbers(values, "mean"),
        std=numbers(values, "std"),
        architecture=values["architecture"],
        allow=tuple(filter(None, values["allow"].split(","))),
    )
    seed = whole(values, "seed") if values["seed"] else base.seed
    out = Path(values["out"]) if values["out"] else Path("runs") / "evaluate" / joined(options.backbones)
    if (out / "config.json").exists():
        raise UserError(f"--out={out} is a run folder, whose results would be lost: choose another")
    found = candidates.gathered(options.backbones, base, asked, seed)
    for one in found:
        console.print(f"{one.name}: {judging.introduced(one)}", highlight=False, markup=False)
    results = judging.judged(found, names, out, seed, console)
    page, verdict = write_judged(results, out)
    console.print(table_of(results))
    console.print(verdict.headline, highlight=False, markup=False)
    console.print(f"report: {page}", highlight=False)
    return 0


def images_and_protocols(options: Options) -> ConfigDict:
    """The groups `data`, `evals` and, where there is one, `backbone` that all candidates share, and `seed`.

    They are of --config, of --data with the usual protocols, else of the first run folder.

    Raises UserError where none of these is given."""
    from gssl_jax.runs import candidates, restored
    from gssl_jax.runs.parts import stage_config

    values = options.values
    kind, path = kind_and_path(values["data"])
    runs = [spec for spec in options.backbones.values() if candidates.is_run(spec)]
    if values["config"]:
        recipe = parse(["evaluate", f"--config={values['config']}"], more=())
        assert recipe is not None
        base = stage_config(recipe.config, recipe.config.stages[-1])
    elif kind:
        base = ConfigDict({"data": protocols.judged_images(), "seed": 0})
        base.evals = protocols.evaluation(kind, path, "train", "test", 0)
    elif runs:
        folder, results = restored.finished(Path(runs[0].removesuffix(candidates.UNTRAINED)))
        try:
            base = restored.last_stage(folder)[2]
        except (AttributeError, KeyError) as problem:
            raise restored.unusable(folder, results, problem) from problem
    else:
        raise UserError("nothing says on which images to judge: give --data=folder:DIR, or --config=RECIPE; see --help")
    if kind:
        from gssl_jax.data.sources import KINDS

        if kind not in KINDS:
            raise unknown("data source", kind, KINDS)
        base.evals.data.update(dict(source=kind, path=path))
    for split in ("train", "test"):
        if values[split]:
            base.evals.data[split] = values[split]
    return base


def kind_and_path(data: str) -> tuple[str, str]:
    """--data: a kind of source, `KIND:PATH`, or a path, whose kind is seen by what lies there."""
    from gssl_jax.data.sources import KINDS, kind_of

    kind, _, path = data.partition(":")
    if data and kind not in KINDS and Path(data).expanduser().exists():
        return kind_of(data), data
    return kind, path


def changed(evals: ConfigDict, changes: Mapping[str, str]) -> ConfigDict:
    """`evals` with the values of the flags --evals.KEY=VALUE.

    Raises UserError for a key that is not known, naming the nearest one, and for a value of another kind."""
    evals = evals.copy_and_resolve_references()
    known = flat(evals.to_dict())
    for key, words in changes.items():
        if key not in known:
            raise unknown("key", f"evals.{key}", [f"evals.{near}" for near in nearest_keys(key, known)])
        try:
            value = words if isinstance(known[key], str) else ast.literal_eval(words)
            if isinstance(known[key], float) and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if isinstance(known[key], tuple) and not isinstance(value, tuple):
                value = tuple(value) if isinstance(value, list) else (value,)
            evals.update_from_flattened_dict({key: value})
        except (ValueError, SyntaxError, TypeError) as problem:
            kind = type(known[key]).__name__
            raise UserError(f"--evals.{key}={words}: this is no {kind} (it is {known[key]!r} now)") from problem
    return evals


def whole(values: Mapping[str, str], name: str) -> int:
    """A flag as a whole number, 0 where it was not given. Raises UserError for anything else."""
    if values[name] and not values[name].isdigit():
        raise UserError(f"--{name}={values[name]}: give a whole number, e.g. --{name}=1")
    return int(values[name] or 0)


def numbers(values: Mapping[str, str], name: str) -> tuple[float, ...]:
    """A flag as numbers parted by commas, () where it was not given. Raises UserError for anything else."""
    try:
        return tuple(float(word) for word in values[name].split(",")) if values[name] else ()
    except ValueError as problem:
        raise UserError(f"--{name}={values[name]}: give numbers in [0, 1], e.g. --{name}=0.5,0.5,0.5") from problem


def joined(backbones: Mapping[str, Any]) -> str:
    """The backbones as the name of a folder."""
    return re.sub(r"[^\w.-]+", "_", "-".join(backbones))[:LONGEST_NAME].strip("_.-") or "backbones"


if __name__ == "__main__":
    sys.exit(main())
