"""The recipes of configs/ as Python objects."""

import importlib.util
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"
STUDIES = ("study",)
"""What trains nothing by itself: grids over the recipes."""


def module(name="maskcluster_vit"):
    """The module of a recipe file."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def recipe(preset, name="maskcluster_vit"):
    """The configuration of a preset."""
    return module(name).get_config(preset)
