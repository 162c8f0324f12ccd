"""The Colab notebook, run cell by cell as a reader would, on a small folder of made images and with a tiny budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "maskcluster_on_your_images.ipynb"
TINY = (
    "--config.backbone.width=16",
    "--config.backbone.depth=1",
    "--config.backbone.heads=2",
    "--config.method.views.locals=0",
    "--config.method.projector.hidden=16",
    "--config.method.projector.output=8",
    "--config.method.prototypes.cls=4",
    "--config.method.prototypes.patch=8",
    "--config.optim.duration=3.0",
    "--config.optim.warmup=1.0",
    "--config.optim.batch_size=8",
    "--config.evals.linear.l2_grid=(1e-2,)",
    "--config.evals.linear.max_iterations=20",
    "--config.evals.bootstrap.resamples=50",
    "--config.evals.lowshot.draws=10",
    "--config.run.tensorboard=False",
)


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def script(**parameters: object) -> str:
    """The code cells in order; the parameters replace the values of the cell that is tagged for them."""
    code = []
    for cell in cells():
        if cell["cell_type"] == "code":
            code.append("".join(cell["source"]))
            if "parameters" in cell["metadata"].get("tags", []):
                code.extend(f"{name} = {value!r}" for name, value in parameters.items())
    return "\n".join(code) + "\n"


def execute(folder: Path, **parameters: object) -> subprocess.CompletedProcess[str]:
    """Runs the notebook's code in one process whose working directory is the folder of the notebook."""
    path = folder / "notebook.py"
    path.write_text(script(**parameters))
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, str(path)],
        cwd=NOTEBOOK.parent,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=500,
    )


def make_images(folder: Path, classes: int, images: int) -> None:
    """PNG files of 40 px: noise around a grey level of the class."""
    random = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class_{label}").mkdir(parents=True)
        for number in range(images):
            pixels = random.integers(0, 100, (40, 40, 3)) + 70 * label
            cv2.imwrite(str(folder / f"class_{label}" / f"{number}.png"), pixels.astype(np.uint8))


def test_the_notebook_is_clean_and_has_parameters():
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in code] == [[]] * len(code)
    assert [cell["execution_count"] for cell in code] == [None] * len(code)
    tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1 and tagged[0] is code[0]


@pytest.mark.slow
def test_the_notebook_trains_judges_and_reports(tmp_path):
    make_images(tmp_path / "images", classes=3, images=12)
    run = tmp_path / "run"
    done = execute(
        tmp_path, IMAGES=str(tmp_path / "images"), WORKDIR=str(run), SIZE=32, FLAGS=list(TINY), INSTALL=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "36 images in" in done.stdout
    results = json.loads((run / "results.json").read_text())
    knn = results["eval"]["knn/top1"]
    row = next(line for line in done.stdout.splitlines() if line.startswith("knn/top1") and "untrained" not in line)
    assert row.split()[1] == f"{knn['value']:.3f}"
    header = next(line for line in done.stdout.splitlines() if line.split() == ["trained", "untrained", "pixels"])
    assert len(header) == len(row)
    assert str(run / "report.html") in done.stdout


def test_a_mistake_in_the_folder_ends_the_notebook_with_the_reason(tmp_path):
    (tmp_path / "images").mkdir()
    done = execute(tmp_path, IMAGES=str(tmp_path / "images"), WORKDIR=str(tmp_path / "run"), INSTALL=False)
    assert done.returncode != 0
    assert "0 images in" in done.stdout
    assert "error: no images in" in done.stdout
    assert "stopped with exit code 2" in done.stderr
