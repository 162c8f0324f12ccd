"""requirements.txt and pyproject.toml say what the code really imports."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = {  # distribution -> the module that it brings, where the two differ
    "absl-py": "absl",
    "array-record": "array_record",
    "faiss-cpu": "faiss",
    "ml-collections": "ml_collections",
    "opencv-python-headless": "cv2",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "tensorboardx": "tensorboardX",
    "tensorflow-datasets": "tensorflow_datasets",
}
READ_AS_FILES = {"skimage": "gssl_jax/data/sources/packaged.py"}  # needed for what lies in the package, not its code
LOCAL = {"gssl_jax", "tests", "configs", "benchmarks", *(path.stem for path in (ROOT / "benchmarks").glob("*.py"))}


def third_party(*folders: str) -> dict[str, str]:
    """Top-level modules from outside the project and the standard library, each with a file that imports it."""
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - LOCAL - sys.stdlib_module_names:
                found.setdefault(name, str(path.relative_to(ROOT)))
    return found


def distribution(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0].lower()


def required() -> list[str]:
    """The lines of requirements.txt that name a package."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


REQUIRED = {MODULES.get(name, name): name for name in map(distribution, required())}


def test_every_import_of_the_package_is_required():
    missing = {name: file for name, file in third_party("gssl_jax", "configs").items() if name not in REQUIRED}
    assert missing == {}


def test_every_requirement_is_used():
    unused = set(REQUIRED) - set(third_party("gssl_jax", "configs"))
    assert unused <= set(READ_AS_FILES)
    for module, file in READ_AS_FILES.items():
        constants = {n.value for n in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(n, ast.Constant)}
        assert module in constants


def test_every_import_of_tests_and_benchmarks_is_declared():
    lines = [line for name in ("test", "benchmarks") for line in PROJECT["project"]["optional-dependencies"][name]]
    extra = {MODULES.get(name, name) for name in map(distribution, lines)}
    assert set(third_party("tests", "benchmarks")) <= set(REQUIRED) | extra


@pytest.mark.parametrize("line", required(), ids=distribution)
def test_a_requirement_has_bounds_and_says_what_it_is_for(line):
    assert re.fullmatch(r"[A-Za-z0-9-]+>=[0-9.]+,<[0-9.]+  # \S.+", line)


def test_neither_torch_nor_tensorflow():
    """Benchmarks compare with torch where it is installed; nothing else knows it."""
    named = {distribution(line) for line in required()} | set(third_party("gssl_jax", "configs", "tests"))
    assert named & {"torch", "torchvision", "tensorflow", "tensorflow-cpu", "tensorboard", "keras"} == set()


def test_pyproject_reads_the_requirements_from_the_file():
    assert "dependencies" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}
    assert PROJECT["project"]["requires-python"] == ">=3.11"


@pytest.mark.parametrize("target", PROJECT["project"]["scripts"].values())
def test_an_entry_script_can_be_called_without_arguments(target):
    module, function = target.split(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters.values()
    assert [parameter.name for parameter in parameters if parameter.default is parameter.empty] == []
