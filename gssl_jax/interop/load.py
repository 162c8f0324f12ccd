"""Published weights into a backbone, with an account of every leaf: loaded, adapted, kept, skipped or missing."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from rich import table as rich_table

from gssl_jax.errors import UserError
from gssl_jax.interop.adapt import other_channels, resampled_patches, resized_grid, side_of
from gssl_jax.interop.files import read_weights
from gssl_jax.interop.layouts import Layout, Named, Part, detect
from gssl_jax.interop.stored import Stored
from gssl_jax.models.build import Backbone
from gssl_jax.models.vit import ViT, sincos_positions

STATES = ("loaded", "adapted", "kept", "missing", "skipped")


class Row(NamedTuple):
    """What happened to one leaf: `state` is one of `STATES`; `kept` stays as initialised because its shape differs and
    it was allowed, `missing` because the file lacks it; `skipped` names something of the file. Shapes may be ()."""

    leaf: str
    state: str
    there: tuple[int, ...]
    here: tuple[int, ...]
    note: str = ""


class Table(NamedTuple):
    """The account of one file: where it came from, which layout, a row each, and `notes` to show beside them."""

    file: str
    layout: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def count(self, state: str) -> int:
        """How many rows are in this state."""
        return sum(row.state == state for row in self.rows)


def load_backbone(
    path: Path | str,
    backbone: Backbone,
    variables: Mapping[str, Any],
    allow: Sequence[str] = (),
    *,
    layout: str = "auto",
    channels: str = "auto",
) -> tuple[dict[str, Any], Table]:
    """`variables` of `backbone` with the weights of the file in their place, and what became of every leaf.

    Args:
      variables: {"params": ...} and, for a ResNet, "batch_stats"; arrays or `jax.ShapeDtypeStruct` where nothing is
        allowed to stay. Dtypes are kept: the float16 and bfloat16 of a file become float32.
      allow: patterns (`fnmatch`) of leaves that may stay as they are, `block_*/scale?`, or of names of the file that
        may be left over. Heads, decoders and counters are always left over.
      layout: a name of `layouts.LAYOUTS` in place of what the names in the file say.
      channels: the rule of `adapt.other_channels`.

    Raises UserError for a file that cannot be read or is of no known layout, and for every leaf that is missing, has
    another shape or an unknown name and is not allowed, all in one message.
    """
    path = Path(path)
    form, stored = read_weights(path)
    try:
        named = detect(stored, layout)
        check_kind(named.layout, backbone)
        found = gathered(named, stored)
        fitted = Fitting(named.layout, backbone, channels, found)
        flat = {collection: traverse_util.flatten_dict(tree, sep="/") for collection, tree in variables.items()}
        rows = [fill(leaves, leaf, fitted) for leaves in flat.values() for leaf in leaves]
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from problem
    wrong = [row for row in rows if row.state in ("missing", "kept") and not matches(row.leaf, allow)]
    extra = left_over(fitted, named, flat, allow)
    wrong += [row for row in extra if row.state != "skipped"]
    if wrong:
        raise UserError(f"{path}: {complaint(named.layout.name, wrong, {n: a.shape for n, a in found.items()})}")
    loaded = {collection: traverse_util.unflatten_dict(leaves, sep="/") for collection, leaves in flat.items()}
    return loaded, Table(str(path), f"{named.layout.name} ({form})", (*rows, *extra), notes(named.layout, backbone))


def fill(leaves: dict[str, Any], leaf: str, fitted: Fitting) -> Row:
    """Puts the file's value in the place of one of `leaves`, where it has one that fits; returns what happened."""
    old = leaves[leaf]
    value, row = fitted.fit(leaf, tuple(old.shape))
    if value is not None:
        leaves[leaf] = jax.numpy.asarray(value, old.dtype)
    return row


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns fits the whole name."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_kind(layout: Layout, backbone: Backbone) -> None:
    """Raises UserError where the file holds the other kind of network."""
    kind = "vit" if isinstance(backbone, ViT) else "resnet"
    if layout.kind != kind:
        raise UserError(f"it holds a {layout.kind} ({layout.name}) and backbone.kind={kind}: set it to {layout.kind}")


def gathered(named: Named, stored: Mapping[str, Stored]) -> dict[str, np.ndarray]:
    """The file's arrays by our leaves, float32, in the file's own arrangement; leaves in several files are joined.

    Raises UserError where a part of a leaf is absent, or an array holds numbers that are not floats.
    """
    pieces: dict[str, dict[int, np.ndarray]] = {}
    wanted: dict[str, Part] = {}
    for name, part in named.parts.items():
        leaf, place, _ = part
        if not stored[name].dtype.startswith(("float", "bfloat")):
            raise UserError(f"{name} holds {stored[name].dtype} and not floating-point numbers")
        pieces.setdefault(leaf, {})[place] = np.asarray(stored[name].read(), np.float32)
        wanted[leaf] = part
    for leaf, (_, _, count) in wanted.items():
        if len(pieces[leaf]) < count:
            raise UserError(f"only {len(pieces[leaf])} of the {count} parts of {leaf} are in it")
    return {leaf: np.concatenate([p for _, p in sorted(parts.items())]) if wanted[leaf][2] > 1 else parts[0]
            for leaf, parts in pieces.items()}  # fmt: skip


class Fitting:
    """Turns the file's arrays into leaves of one backbone."""

    def __init__(self, layout: Layout, backbone: Backbone, channels: str, found: dict[str, np.ndarray]) -> None:
        self.layout, self.backbone, self.channels = layout, backbone, channels
        self.found = dict(found)
        self.used: set[str] = set()
        if "positions" in self.found and isinstance(backbone, ViT):
            self._split_positions()

    def _split_positions(self) -> None:
        """[1, extra + n * n, D] becomes a class entry and a grid; entries of registers are added to the registers.

        Files whose positions leave out the class token (timm's `no_embed_class`) get zeros for it.
        """
        table = self.found["positions"].reshape(-1, self.found["positions"].shape[-1])
        registers = self.found.get("registers", np.zeros((1, 0, table.shape[1])))
        extra = next((e for e in (1, 0, 1 + registers.shape[1]) if round((len(table) - e) ** 0.5) ** 2 == len(table) - e
                      and len(table) > e), 1)  # fmt: skip
        if extra > 1:
            self.found["registers"] = registers + table[None, 1:extra]
        first = table[:1] if extra else np.zeros_like(table[:1])
        self.found["positions"] = np.concatenate([first, table[extra:]])

    def fit(self, leaf: str, shape: tuple[int, ...]) -> tuple[np.ndarray | None, Row]:
        """The value for a leaf of this shape and its row; None where the leaf has to stay as it is."""
        if leaf not in self.found:
            if leaf.endswith("attn/qkv/bias") and leaf.replace("bias", "kernel") in self.found:
                return np.zeros(shape, np.float32), Row(leaf, "adapted", (), shape, "no bias in the file: zeros")
            return None, Row(leaf, "missing", (), shape)
        self.used.add(leaf)
        raw = self.found[leaf]
        value, note = self._arranged(leaf, raw, shape)
        if value.shape != shape:
            return None, Row(leaf, "kept", raw.shape, shape, "another shape")
        return value, Row(leaf, "adapted" if note else "loaded", raw.shape, shape, note)

    def _arranged(self, leaf: str, raw: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
        if leaf == "positions":
            return self._positions(raw, shape)
        if leaf in ("patch_embed/kernel", "stem/kernel") and raw.ndim == 4:
            return self._first_kernel(leaf, raw)
        if not leaf.endswith("kernel"):
            return raw, ""
        if raw.ndim == 2:
            return raw.T, ""
        kernel = raw.transpose(2, 3, 1, 0)  # [out, in, h, w] -> [h, w, in, out]
        return (kernel[0, 0] if kernel.shape[:2] == (1, 1) and len(shape) == 2 else kernel), ""

    def _positions(self, table: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
        cells = shape[0] - 1
        old, new = side_of(len(table) - 1), side_of(cells)
        if old == new:
            return table, ""
        how = self.layout.bicubic
        words = f"grid {old} -> {new}, bicubic a={how.a}{', antialiased' if how.antialias else ''}"
        words += f", offset {how.offset}" if how.offset else ""
        return np.concatenate([table[:1], resized_grid(table[1:], new, how)]), words

    def _first_kernel(self, leaf: str, raw: np.ndarray) -> tuple[np.ndarray, str]:
        kernel, words = raw, []
        if self.backbone.channels != raw.shape[1]:
            kernel = other_channels(kernel, self.backbone.channels, self.channels)
            words.append(f"channels {raw.shape[1]} -> {self.backbone.channels} ({self.channels})")
        if not isinstance(self.backbone, ViT):
            return kernel.transpose(2, 3, 1, 0), ", ".join(words)
        if self.backbone.patch != raw.shape[-1]:
            kernel = resampled_patches(kernel, self.backbone.patch)
            words.append(f"patch {raw.shape[-1]} -> {self.backbone.patch} (FlexiViT)")
        return kernel.transpose(2, 3, 1, 0).reshape(-1, raw.shape[0]), ", ".join(words)


def left_over(fitted: Fitting, named: Named, flat: Mapping[str, Any], allow: Sequence[str]) -> list[Row]:
    """Rows for what the file holds beyond the leaves; those not in the state `skipped` are errors."""
    rows = [Row(name, "skipped", (), (), "not part of a backbone") for name in named.skipped]
    rows += [Row(n, "skipped" if matches(n, allow) else "unknown", (), (), "unknown name") for n in named.unknown]
    for leaf in fitted.found.keys() - fitted.used:
        state, note = ("skipped" if matches(leaf, allow) else "unknown"), "not in this backbone"
        if leaf == "positions" and same_sincos(fitted.found[leaf], flat["params"]["norm/scale"].shape[0]):
            state, note = "skipped", "the fixed positions that this backbone computes"
        rows.append(Row(leaf, state, fitted.found[leaf].shape, (), note))
    return sorted(rows)


def same_sincos(table: np.ndarray, width: int) -> bool:
    """Whether positions [1 + n * n, D] are the sine-cosine ones with nothing for the class token."""
    if width % 4 or table.shape[1] != width or np.any(table[0]):
        return False
    return bool(np.allclose(table[1:], sincos_positions(side_of(len(table) - 1), width), atol=1e-4))


def complaint(layout: str, wrong: Sequence[Row], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """All that does not fit in one sentence, what the file is, and what to do."""
    words = {"missing": "not in the file", "kept": "of another shape", "unknown": "in the file but not here"}
    parts = []
    for state, meaning in words.items():
        rows = [row for row in wrong if row.state == state]
        if rows:
            both = f" (file {list(rows[0].there)}, here {list(rows[0].here)})" if state == "kept" else ""
            named = ", ".join(folded([row.leaf for row in rows])[:4])
            parts.append(f"{len(rows)} {meaning}: {named}{both}")
    return (
        f"its {layout} weights do not fit this backbone; {'; '.join(parts)}; the file holds {described(shapes)}: "
        f"set the backbone so, or allow these leaves by name"
    )


def folded(leaves: Sequence[str]) -> list[str]:
    """Names with block numbers as `*`, each once."""
    return list(dict.fromkeys(re.sub(r"^block_\d+/", "block_*/", leaf) for leaf in leaves))


def described(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The network in a file in words that name the knobs of `config.backbone`, from the file's own shapes by leaf."""
    blocks = 1 + max((int(m[1]) for leaf in shapes if (m := re.match(r"block_(\d+)/", leaf))), default=-1)
    first = shapes.get("patch_embed/kernel") or shapes.get("stem/kernel", ())
    if len(first) != 4:
        return f"a network whose first kernel has the shape {list(first)}"
    if "patch_embed/kernel" not in shapes:
        kind = "bottleneck" if "block_0/conv3/kernel" in shapes else "basic"
        return f"a ResNet of {blocks} {kind} blocks, stem {first[2]}x{first[3]} for {first[1]} channels"
    width, channels, patch = first[:3]
    registers = shapes.get("registers", (0, width))[-2]
    hidden = shapes.get("block_0/fc1/bias", (0,))[0]
    grid = int(shapes.get("positions", (1, 0, width))[-2] ** 0.5)
    return (
        f"a ViT with patch={patch}, width={width}, depth={blocks}, mlp_ratio={hidden / width:.3g}, "
        f"registers={registers}, layer_scale={'1e-5' if 'block_0/scale1' in shapes else '0.0'}, "
        f"channels={channels}, image_size={grid * patch}"
    )


def notes(layout: Layout, backbone: Backbone) -> tuple[str, ...]:
    """What makes features differ from the release's though every leaf fits."""
    lines = []
    eps = getattr(backbone, "layer_norm_eps", 0.0)
    if layout.layer_norm_eps and layout.layer_norm_eps != eps:
        lines.append(f"{layout.name} has layer norms with eps {layout.layer_norm_eps:g}, this backbone {eps:g}")
    own = (tuple(backbone.mean), tuple(backbone.std))
    if layout.mean and backbone.channels == 3 and not np.allclose(spread(own), spread((layout.mean, layout.std))):
        lines.append(
            f"{layout.name} normalised images by mean {layout.mean} and std {layout.std}, this backbone by mean "
            f"{own[0]} and std {own[1]}"
        )
    return tuple(lines)


def spread(mean_std: tuple[tuple[float, ...], tuple[float, ...]]) -> np.ndarray:
    """[2, 3]; one value serves all channels."""
    return np.array([np.broadcast_to(values, 3) for values in mean_std])


def drawn(table: Table) -> rich_table.Table:
    """The account for a console: leaves of all blocks in one line, in the order of `STATES`."""
    shown = rich_table.Table(title=f"{table.file}: {table.layout}", title_justify="left")
    for heading in ("state", "leaf", "times", "in the file", "here", "note"):
        shown.add_column(heading, overflow="fold", justify="right" if heading == "times" else "left")
    counts: dict[tuple[str, ...], int] = {}
    for state in STATES:
        for row in table.rows:
            if row.state == state:
                shapes = [" x ".join(map(str, shape)) for shape in (row.there, row.here)]
                line = (state, re.sub(r"block_\d+/", "block_*/", row.leaf), *shapes, row.note)
                counts[line] = counts.get(line, 0) + 1
    for (state, leaf, there, here, note), times in counts.items():
        shown.add_row(state, leaf, str(times), there, here, note)
    shown.caption = ", ".join(f"{table.count(state)} {state}" for state in STATES)
    return shown
