"""Flags of the entry points: a configuration file, overrides by name, and errors of one line with the nearest key."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from gssl_jax.errors import UserError, unknown
from gssl_jax.knobs import flat

USAGE = """usage: python -m gssl_jax.main --config=FILE[:preset[,key=value ...]] [--workdir=DIR] [--config.KEY=V ...]

  --config=FILE    a recipe, e.g. configs/maskcluster_vit.py; presets stand in its first lines
  --config.KEY=V   changes one value, e.g. --config.method.collapse.patch=memax
  --workdir=DIR    the run folder (runs/<recipe>[-<preset>] without it); the same command goes on where it stopped
  --redo=STAGE     puts a stage and all after it aside and trains them anew
  --debug          a traceback where something is refused
  --help           this text

several processes, one run (--workdir on a disk that all of them see)
  --distributed=auto       this is one of the processes of a TPU slice, of SLURM (a task for each GPU) or of Open MPI
  --distributed=HOST:PORT --processes=N --process=I   the I-th of N, from 0, the first of which is on HOST
"""

PROCESSES = ("distributed", "processes", "process")
"""The flags of one of several processes, see `gssl_jax.training.distributed`."""

EXIT_REFUSED = 2

OFFERED = 8
"""Keys named beside the nearest one."""


class Options(NamedTuple):
    """What the command line says."""

    config: ConfigDict
    workdir: Path
    more: dict[str, str]


def parse(
    argv: Sequence[str],
    usage: str = USAGE,
    more: Sequence[str] = ("redo", *PROCESSES),
    switches: Sequence[str] = (),
    needs: str = "stages",
) -> Options | None:
    """The options of `argv` (program name first), or None after printing the help.

    `more` are the flags of the entry point beside --config, --workdir, --debug and --help, `switches` those without a
    value; those not given are empty. `needs` is a group that tells recipes, which have stages, from studies, which have
    methods.
    Raises UserError for a flag, key, preset or value that is not known, naming the nearest one.
    """
    if "--help" in argv or "-h" in argv or len(argv) == 1:
        print(usage, end="")
        return None
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "the recipe", flag_values=values)
    flags.DEFINE_string("workdir", "", "the run folder", flag_values=values)
    for name in more:
        flags.DEFINE_string(name, "", "", flag_values=values)
    for name in switches:
        flags.DEFINE_boolean(name, False, "", flag_values=values)
    flags.DEFINE_boolean("debug", False, "traceback on errors", flag_values=values)
    recipe = check_flags(argv, (*more, *switches))
    try:
        left = read(values, argv)
        config: Any = values["config"].value
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as problem:
        raise explained(problem, argv, recipe) from problem
    if len(left) > 1:
        raise UserError(f"{left[1]!r} is not a flag: options begin with --, see --help")
    if needs not in config:
        other = "study" if "methods" in config else "main"
        raise UserError(f"{recipe} is of another kind, without {needs}: it is for python -m gssl_jax.{other}")
    config.lock()
    workdir = str(values["workdir"].value)
    if "://" in workdir:
        raise UserError(f"--workdir={workdir} is a URL: give a folder, a bucket has to be mounted as one")
    path, _, preset = recipe.partition(":")
    named = re.sub(r"[^\w.-]+", "_", re.sub(r"\w+=", "", preset)).strip("_")
    default = Path("runs") / (f"{Path(path).stem}-{named}" if named else Path(path).stem)
    given = {name: str(values[name].value) for name in more}
    given |= {name: "true" if values[name].value else "" for name in switches}
    return Options(config, Path(workdir) if workdir else default, given)


def words_and_values(
    argv: Sequence[str], usage: str, defaults: Mapping[str, str]
) -> tuple[list[str], dict[str, str]] | None:
    """What stands in `argv` (program name first) without `--`, and the options `--name=value` over `defaults`.

    None after printing `usage`, which happens where there is nothing or --help. For entry points without a recipe.
    Raises UserError for an option that is not known, naming the nearest one, and for one without a value.
    """
    if "--help" in argv or "-h" in argv or len(argv) == 1:
        print(usage, end="")
        return None
    words, values = [], dict(defaults)
    for argument in argv[1:]:
        name, separator, value = argument.partition("=")
        if not argument.startswith("--"):
            words.append(argument)
        elif name != "--debug":
            if name.removeprefix("--") not in defaults:
                raise unknown("flag", name, [f"--{known}" for known in (*defaults, "debug", "help")])
            if not separator or not value:
                raise UserError(f"{name} needs a value: give {name}=VALUE")
            values[name.removeprefix("--")] = value
    return words, values


def read(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Parses `argv` into `values`; returns what is not a flag. ml_collections looks for overrides in `sys.argv`."""
    before, sys.argv = sys.argv, list(argv)
    try:
        return values(list(argv))
    finally:
        sys.argv = before


def check_flags(argv: Sequence[str], more: Sequence[str]) -> str:
    """The recipe `FILE[:preset]`; `more` as in `parse`.

    Raises UserError where there is none, or no such file, or a flag is not known.
    """
    recipe, own = "", [f"--{name}" for name in more]
    arguments = iter(argv[1:])
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not argument.startswith("--"):
            continue
        if name == "--config":
            recipe = value if separator else next(arguments, "")
        elif not name.startswith("--config.") and name not in ("--workdir", *own, "--debug", "--nodebug"):
            raise unknown("flag", name, ("--config", "--config.KEY", "--workdir", *own, "--debug", "--help"))
    if not recipe:
        raise UserError("no recipe: give --config=configs/maskcluster_vit.py")
    path = Path(recipe.partition(":")[0])
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such recipe; known here: "
            f"{', '.join(str(p) for p in sorted(Path('configs').glob('*.py'))) or 'none'}"
        )
    return recipe


def explained(problem: Exception, argv: Sequence[str], recipe: str) -> UserError:
    """The error of a recipe or an override in one line; a mistyped key gets the nearest one."""
    try:
        known = flat(alone(argv[0], recipe).to_dict())
    except Exception as inner:  # the recipe itself refuses: its own words are the message
        first: BaseException = inner  # ml_collections raises again, with tracebacks in its text
        while first.__context__ is not None:
            first = first.__context__
        return UserError(" ".join(str(first).split()) or type(first).__name__)
    for argument in argv[1:]:
        name, _, value = argument.partition("=")
        key = name.removeprefix("--config.")
        if key == name:
            continue
        if key not in known:
            return unknown("key", key, nearest_keys(key, known))
        try:
            alone(argv[0], recipe, argument)
        except Exception:
            kind = type(known[key]).__name__
            return UserError(f"--config.{key}={value}: this is no {kind} (it is {known[key]!r} now)")
    return UserError(" ".join(str(problem).split()))


def alone(program: str, recipe: str, *overrides: str) -> Any:
    """The configuration of a recipe with nothing but `overrides`."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    read(values, [program, f"--config={recipe}", *overrides])
    return values["config"].value


def nearest_keys(key: str, known: dict[str, object]) -> list[str]:
    """The keys to offer for a mistyped one, the most similar first: of its own group, if there is such a group."""
    group = key.partition(".")[0]
    among = [k for k in known if k.partition(".")[0] == group] or list(known)
    return difflib.get_close_matches(key, among, n=OFFERED, cutoff=0.0)


def refuse(problem: UserError) -> int:
    """Prints the error as one line and returns `EXIT_REFUSED`."""
    print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
    return EXIT_REFUSED
