"""What a person sees while a run trains: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gssl_jax.training.loop import Row

QUIET_SECONDS = 10.0
"""Least time between plain lines where the output is not a terminal."""

LONGEST = 120
"""Characters of the live line, above which pretexts are told by their weights alone."""

SHORT = {
    "rotation": "rot",
    "lorot_e": "LoRot-E",
    "lorot_i": "LoRot-I",
    "channels": "chan",
    "relative_position": "rel",
}

NAMES = {
    "train/loss": "loss",
    "train/loss_cls": "cls",
    "train/loss_patch": "patch",
    "train/loss_reconstruction": "l1",
}


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def progress_line(stage: str, step: int, total: int, row: Row, eta: float) -> str:
    """Step, ETA, images/s, loss terms, and how the method does, in one line: target entropy and prototype use, or the
    accuracy on training batches and each pretext as loss x weight."""
    parts = [f"{stage} {step}/{total}", f"ETA {clock(eta)}", f"{row['train/images_per_second']:.0f} img/s"]
    if "train/loss_supervised" in row:
        return " | ".join([*parts, *_supervised(row, LONGEST - len(" | ".join(parts)))])
    parts.append(" ".join(f"{short} {row[name]:.3f}" for name, short in NAMES.items() if name in row))
    for short, name in (("entropy", "target_entropy"), ("in use", "prototypes_in_use")):
        levels = [
            f"{level} {row[f'health/{name}_{level}']:.2f}"
            for level in ("cls", "patch")
            if f"health/{name}_{level}" in row
        ]
        if levels:
            parts.append(f"{short} {' '.join(levels)}")
    return " | ".join(parts)


def _supervised(row: Row, room: int) -> list[str]:
    """The parts of the line about a labelled method: its losses and accuracy, and as much about the pretexts as fits
    into `room` characters, the heaviest first where not all of them fit."""
    own = {"labels": "train/loss_supervised", "unlabelled": "train/loss_consistency", "acc": "train/accuracy"}
    parts = [" ".join(f"{short} {row[key]:.3f}" for short, key in own.items() if key in row)]
    weights = {key.removeprefix("gate/weight_"): row[key] for key in row if key.startswith("gate/weight_")}
    if not weights:
        return parts
    room -= len(f"{parts[0]} |  | ")
    terms = {name: f"{row[f'train/loss_{name}']:.2f}x{_bare(weight)}" for name, weight in weights.items()}
    line = " ".join(f"{SHORT.get(name, name)} {term}" for name, term in terms.items())
    if len(line) > room:
        heaviest = sorted(weights, key=lambda name: -weights[name])
        shares = [f"{SHORT.get(name, name)} {_bare(weights[name])}" for name in heaviest]
        while len(shares) > 1 and len(f"gate {' '.join(shares)} ...") > room:
            shares.pop()
        line = f"gate {' '.join(shares)}{' ...' if len(shares) < len(weights) else ''}"
    return [*parts, line]


def _bare(weight: float) -> str:
    """A weight in two digits without the zero before them: .28, 1.00."""
    return f"{weight:.2f}".removeprefix("0")


class Progress:
    """A hook that keeps the live line; a context, so that the line is closed before anything else is printed."""

    def __init__(self, console: Console, stage: str, total: int, batch_size: int) -> None:
        self._console, self._stage, self._total, self._batch_size = console, stage, total, batch_size
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._printed = -QUIET_SECONDS

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
            self._live.update(Text(f"{self._stage}: compiling the step ..."))
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live is not None:
            self._live.stop()

    def on_log(self, step: int, row: Row) -> None:
        now = time.monotonic()
        eta = (self._total - step) * self._batch_size / max(row["train/images_per_second"], 1e-9)
        line = progress_line(self._stage, step, self._total, row, eta)
        if self._live is not None:
            self._live.update(Text(line))
        elif now - self._printed >= QUIET_SECONDS or step >= self._total:
            self._printed = now
            self._console.print(line, highlight=False, soft_wrap=True)

    def say(self, words: str, style: str = "") -> None:
        """A lasting line above the live one."""
        self._console.print(Text(words, style=style), soft_wrap=True)


def report_unreadable(replaced: Sequence[str], left_out: Sequence[str], console: Console) -> None:
    """Unreadable images by name, of the training and of the evaluation."""
    for broken, fate in ((replaced, "replaced in training"), (left_out, "left out of the evaluation")):
        if broken:
            names = "; ".join(broken[:5]) + ("; ..." if len(broken) > 5 else "")
            console.print(f"{len(broken)} unreadable images were {fate}: {names}", style="yellow", soft_wrap=True)
