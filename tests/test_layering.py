"""The house rules that a machine can check: who imports whom, and how long a file may get."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gssl_jax"
RANKS = {
    "errors": 0,
    "domains": 0,
    "presets": 1,
    "protocols": 0,
    "knobs": 0,
    "ops": 0,
    "models": 1,
    "data": 1,
    "methods": 2,
    "training": 3,
    "evals": 4,
    "interop": 4,
    "runs": 5,
    "report": 6,
    "cli": 6,  # the flags that the entry points share
}
TOP = 7  # main and the other entry points
LONGEST = 320  # lines of a file
FILES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))


def imported(tree: ast.AST, package: str = "") -> set[str]:
    """Dotted names that a file of `package` imports, at any depth; `from a import b` gives `a.b`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def imports_of(path: Path) -> set[str]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return imported(ast.parse(path.read_text()), package)


def layer(module: str) -> str:
    """The folder, or the file at the top of the package, that a dotted module name belongs to."""
    return (module.split(".") + [""])[1]


def breaches(path: Path, names: set[str]) -> list[str]:
    """The imports in `names` that reach up or sideways from the file `path`."""
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    inside = {name for name in names if name.startswith("gssl_jax.") and not layer(name).startswith("__")}
    others = {name for name in inside if layer(name) != own and not (layer(name) == "errors" and own != "errors")}
    return sorted(name for name in others if RANKS.get(layer(name), TOP) >= RANKS.get(own, TOP))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def offenders(folder: str, *modules: str) -> dict[str, list[str]]:
    """The files of a layer ("" = all) that import one of the modules or something below it, and what they import."""
    below = tuple(f"{module}." for module in modules)
    files = [path for path in FILES if folder in ("", path.relative_to(PACKAGE).parts[0])]
    found = {relative(path): sorted(n for n in imports_of(path) if f"{n}.".startswith(below)) for path in files}
    return {name: imports for name, imports in found.items() if imports}


def test_a_file_imports_only_from_layers_below_its_own():
    found = {relative(path): breaches(path, imports_of(path)) for path in FILES}
    assert {name: imports for name, imports in found.items() if imports} == {}


@pytest.mark.parametrize(
    ("path", "line", "allowed"),
    [
        ("ops/losses.py", "from gssl_jax.ops import keys", True),
        ("ops/losses.py", "from gssl_jax.models import vit", False),
        ("models/vit.py", "import gssl_jax.data.pipeline", False),  # the same rank is not below
        ("data/sources/folder.py", "from gssl_jax.data import decode", True),
        ("data/sources/folder.py", "from .. import pipeline", True),
        ("data/pipeline.py", "from gssl_jax import errors", True),
        ("data/pipeline.py", "def f():\n    from gssl_jax import training", False),
        ("runs/start.py", "from gssl_jax.report import html", False),
        ("runs/start.py", "from ..report import html", False),
        ("report/html.py", "from gssl_jax.runs import folder", True),
        ("report/html.py", "from gssl_jax import main", False),
        ("main.py", "from gssl_jax.report import html", True),
        ("main.py", "from gssl_jax import evaluate", False),
        ("report/html.py", "from gssl_jax import __version__", True),
        ("errors.py", "from gssl_jax.ops import keys", False),
    ],
)
def test_the_rule_itself(path, line, allowed):
    file = PACKAGE / path
    names = imported(ast.parse(line), ".".join(file.relative_to(ROOT).parent.parts))
    assert (breaches(file, names) == []) == allowed


def test_every_folder_has_a_rank():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(RANKS)


def test_no_module_at_the_top_has_the_name_of_a_folder():
    names = [path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()]
    assert sorted(set(names)) == sorted(names)


def test_only_models_imports_linen():
    assert {name for name in offenders("", "flax.linen") if not name.startswith("gssl_jax/models/")} == set()
    assert offenders("models", "flax.linen") != {}


def test_ops_knows_neither_flax_nor_configurations():
    assert offenders("ops", "flax", "ml_collections", "optax", "clu") == {}


def test_data_never_imports_jax():
    assert offenders("data", "jax", "jaxlib", "flax", "optax", "clu", "orbax") == {}


def test_data_workers_start_where_there_is_no_jax():
    """grain imports jax for its profiler where it can, so jax is hidden: all files of data/ must import without it."""
    files = [path for path in (PACKAGE / "data").rglob("*.py") if path.stem != "__init__"]
    modules = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    code = f"import sys; sys.modules['jax'] = None\nfor name in {modules}: __import__(name)\nprint('all imported')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "all imported\n", done.stderr


def test_a_config_imports_only_ml_collections_and_presets():
    found = {relative(path): imports_of(path) for path in CONFIGS}
    assert found != {}
    allowed = {"ml_collections.ConfigDict", "gssl_jax.presets", "__future__.annotations"}
    assert {name: modules for name, modules in found.items() if not modules <= allowed} == {}
    modules = {name.split(".")[0] for name in imports_of(PACKAGE / "presets.py")}
    assert modules <= {
        "__future__",
        "collections",
        "importlib",
        "inspect",
        "pathlib",
        "types",
        "typing",
        "ml_collections",
        "gssl_jax",
    }


def test_files_are_one_sitting_and_none_is_called_utils():
    lengths = {relative(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
    assert [name for name in lengths if Path(name).stem in ("utils", "util", "helpers", "misc")] == []
