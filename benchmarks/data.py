"""How fast images come: every stage of the host's work, the whole stream, and a PyTorch DataLoader at the same work.

    python benchmarks/data.py [--images=512] [--views=1] [--threads=2] [--rounds=5] [--quick] [--json=FILE]

JPEG files of 500 x 375 pixels at quality 95, cut from the embedded photographs; of each image `--views` random-resized
crops of 224 pixels. Turns are interleaved in one process and the best of each counts: images a second by the clock,
and for each second of the processor, which says more on a machine that does other work. The goal is that the stream
from files gives 85 % of what the decoder alone gives on the same threads. With `pip install torch` the DataLoader is
measured too: with Pillow, as torchvision decodes and cuts, and with OpenCV, as this project does.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from gssl_jax.data import decode, prepare
from gssl_jax.data.arrays import load_canvases
from gssl_jax.data.pipeline import cut, open_stream
from gssl_jax.data.sources import Source, open_source
from gssl_jax.data.sources.packaged import PHOTOS, photograph

HEIGHT, WIDTH, SIDE = 375, 500, 224
VIEW = {"size": SIDE, "scale": (0.25, 1.0), "ratio": (3 / 4, 4 / 3), "interpolation": "bicubic"}
GOAL = 0.85


class Rate(NamedTuple):
    """Images a second by the clock and of the processor, of all threads and child processes."""

    clock: float
    processor: float


def write_images(folder: Path, count: int) -> None:
    """`count` JPEG files, crops of the photographs at random places and scales."""
    pictures = [photograph(name, 3) for name in PHOTOS]
    pictures = [picture for picture in pictures if min(picture.shape[:2]) >= 200]
    for i in range(count):
        draw = np.random.default_rng(i)
        picture = pictures[i % len(pictures)]
        height = int(draw.integers(150, min(picture.shape[0], picture.shape[1] * 3 // 4) + 1))
        width = height * 4 // 3
        top = int(draw.integers(picture.shape[0] - height + 1))
        left = int(draw.integers(picture.shape[1] - width + 1))
        part = cv2.resize(picture[top : top + height, left : left + width], (WIDTH, HEIGHT))
        cv2.imwrite(str(folder / f"{i:05d}.jpg"), part[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))


def processor() -> float:
    """Seconds of the processor that this process and its ended children took."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measured(calls: dict[str, Callable[[], int]], rounds: int) -> dict[str, Rate]:
    """The best of `rounds` interleaved turns of each, after one to warm up; a call returns the images it did."""
    best: dict[str, Rate] = {}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            clock, used = time.perf_counter(), processor()
            images = call()
            found = Rate(images / (time.perf_counter() - clock), images / max(processor() - used, 1e-9))
            if turn:
                before = best.get(name, Rate(0.0, 0.0))
                best[name] = Rate(max(before.clock, found.clock), max(before.processor, found.processor))
    return best


def stages(source: Source, views: int, batch: int) -> dict[str, Callable[[], int]]:
    """One thread, one stage each, on the same images."""
    count = len(source)
    files = [source.payload(i) for i in range(count)]  # type: ignore[attr-defined]
    images = [decode.decode(held) for held in files[:64]]
    crops = np.zeros((batch, views, SIDE, SIDE, 3), np.uint8)

    def times(work: Callable[[int], Any], number: int = count) -> Callable[[], int]:
        def call() -> int:
            for i in range(number):
                work(i)
            return number

        return call

    def put(_: int) -> None:
        jax.block_until_ready(jax.device_put(crops))

    return {
        "read a file": times(lambda i: source.payload(i)),  # type: ignore[attr-defined]
        "decode": times(lambda i: decode.decode(files[i])),
        f"cut {views} view(s)": times(
            lambda i: [cut(images[i % 64], np.random.default_rng(i), VIEW) for _ in range(views)]
        ),
        "stack a batch": lambda: times(lambda _: np.stack(list(crops)), 4)() * batch,
        "put on the device": lambda: times(put, 4)() * batch,
    }


def decoder(source: Source, threads: int) -> Callable[[], int]:
    """OpenCV on bytes in memory by `threads` threads: the limit."""
    held = [np.frombuffer(source.payload(i), np.uint8) for i in range(len(source))]  # type: ignore[attr-defined]

    def call() -> int:
        with ThreadPoolExecutor(threads) as pool:
            return sum(image is not None for image in pool.map(lambda one: cv2.imdecode(one, cv2.IMREAD_COLOR), held))

    return call


def streamed(source: Source, data: ConfigDict, views: int, batch: int) -> Callable[[], int]:
    """A pass of the stream over the images, each batch put on the device."""

    def call() -> int:
        cuts = {"global": [VIEW] * views, "local": []}
        stream = open_stream(source, data, batch_size=batch, seed=0, views=cuts)
        done = 0
        for _ in range(max(1, len(source) // batch)):
            jax.block_until_ready(jax.device_put(next(stream)["image"]))
            done += batch
        stream.close()
        return done

    return call


def resident(source: Source, data: ConfigDict, batch: int) -> Callable[[], int]:
    """Batches of places of images that live on the device, gathered there."""
    canvases = jax.device_put(load_canvases(source, data))
    gather = jax.jit(lambda held, index: held[index])

    def call() -> int:
        stream = open_stream(source, data, batch_size=batch, seed=0)
        for _ in range(16):
            jax.block_until_ready(gather(canvases, next(stream)["index"]))
        stream.close()
        return 16 * batch

    return call


def loader(folder: Path, library: str, views: int, batch: int, workers: int) -> Callable[[], int]:
    """A PyTorch DataLoader over the same files; `library` decodes and cuts."""
    import torch
    from PIL import Image

    files = sorted(folder.glob("*.jpg"))

    class Files(torch.utils.data.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            draw = np.random.default_rng(index)
            if library == "OpenCV":
                image = decode.decode(files[index])
                return torch.from_numpy(np.stack([cut(image, draw, VIEW) for _ in range(views)]))
            with Image.open(files[index]) as opened:
                picture = opened.convert("RGB")
            return torch.from_numpy(np.stack([np.asarray(pillow_cut(picture, draw)) for _ in range(views)]))

    def call() -> int:
        torch.set_num_threads(1)
        batches = torch.utils.data.DataLoader(Files(), batch, shuffle=True, num_workers=workers, drop_last=True)
        return sum(len(one) for one in batches)

    return call


def pillow_cut(picture: Any, draw: np.random.Generator) -> Any:
    """The crop of `cut`, by Pillow and bicubic, as torchvision resizes."""
    from PIL import Image

    from gssl_jax.ops import boxes

    width, height = picture.size
    box = boxes.crop_box(draw.random((boxes.ATTEMPTS, 4)), height, width, VIEW["scale"], VIEW["ratio"])
    top, left, box_height, box_width = (int(edge) for edge in boxes.rounded(box, height, width))
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + box_width, top + box_height))


def shards_of(source: Source, folder: Path, threads: int) -> Source:
    """The same images as ArrayRecord."""
    options = prepare.Options()
    for shard in prepare.layout({"train": source}, options):
        prepare.make(source, shard, folder, options, prepare.made_from(source, options), threads)
    prepare.merged({"train": source}, prepare.layout({"train": source}, options), folder)
    return open_source(ConfigDict({"source": "shards", "path": str(folder)}), "train", ConfigDict())


def table(found: dict[str, Rate], limit: str) -> list[str]:
    """Lines of Markdown; the last column is the share of the decoder's rate, by the clock and of the processor."""
    lines = ["| | images/s | images per processor second | of the decoder's, clock; processor |", "|---|--:|--:|--:|"]
    for name, rate in found.items():
        shares = f"{rate.clock / found[limit].clock:.2f}; {rate.processor / found[limit].processor:.2f}"
        lines.append(f"| {name} | {rate.clock:,.0f} | {rate.processor:,.0f} | {shares} |")
    return lines


def main(argv: list[str] | None = None) -> dict[str, Rate]:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"images": (512, "files"), "views": (1, "crops of each"), "rounds": (5, "turns"), "batch": (64, "images"),
               "threads": (2, "of ours, and workers of the DataLoader")}  # fmt: skip
    for name, (value, what) in numbers.items():
        flags.add_argument(f"--{name}", type=int, default=value, help=f"{what} (default {value})")
    flags.add_argument("--quick", action="store_true", help="16 files, one turn: does it run?")
    flags.add_argument("--json", type=Path, help="the numbers, for scripts")
    given = flags.parse_args(argv)
    if given.quick:
        given.images, given.rounds, given.batch = 16, 1, 8
    data = ConfigDict(dict(seed=0, holdout=0.2, channels=3, threads=given.threads, prefetch=2 * given.batch,
                           max_broken=0.01, canvas=256))  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder, shards = Path(place) / "files", Path(place) / "shards"
        folder.mkdir()
        shards.mkdir()
        write_images(folder, given.images)
        source = open_source(ConfigDict({"source": "folder", "path": str(folder)}), "train", data)
        limit = f"decoder alone, {given.threads} threads"
        calls = {
            limit: decoder(source, given.threads),
            "stream from files": streamed(source, data, given.views, given.batch),
            "stream from ArrayRecord": streamed(
                shards_of(source, shards, given.threads), data, given.views, given.batch
            ),
            "images resident on the device": resident(source, data, given.batch),
        }
        try:
            import torch  # noqa: F401
        except ImportError:
            print("torch is not installed: no DataLoader to compare with")
        else:
            for library in ("OpenCV", "Pillow"):
                name = f"DataLoader, {given.threads} workers, {library}"
                calls[name] = loader(folder, library, given.views, given.batch, given.threads)
        calls |= {f"{name}, one thread": call for name, call in stages(source, given.views, given.batch).items()}
        found = measured(calls, given.rounds)
    print("\n".join(table(found, limit)))
    share = found["stream from files"].clock / found[limit].clock
    print(f"\nThe stream from files gives {share:.2f} of the decoder's rate (goal {GOAL}).")
    if given.json:
        given.json.write_text(json.dumps({name: rate._asdict() for name, rate in found.items()}, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
