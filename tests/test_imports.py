"""Who may import what, and what importing costs."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "budgeted"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# What a room may import beside the standard library and itself; None is anything.
ROOMS: dict[str, set[str] | None] = {
    "core": set(),
    "train": {"core", "torch", "safetensors", "numpy", "pynvml", "schedulefree"},
    "tasks": {"core", "train", "torch", "torchvision", "sklearn", "numpy", "PIL", "av", "pycocotools", "scipy"},
    "study": {"core", "train", "tasks", "integrations", "torch", "ray"},
    "analysis": {"core", "numpy", "scipy", "pandas", "statsmodels", "scikit_posthocs"},
    "report": {"core", "analysis", "matplotlib", "rich", "numpy", "pandas", "plotly", "scikit_posthocs"},
    "integrations": {"core", "torch", "mlflow", "wandb"},
    "cli": None,
}


def imports(module: str, at_import: bool = False) -> Iterator[str]:
    """Full names of what a module imports, in functions too unless only what runs at import is asked for."""
    path = MODULES[module]
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8")), at_import):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in MODULES else base


def _nodes(node: ast.AST, at_import: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _nodes(child, at_import)


def room(module: str) -> str:
    """`budgeted.core.text` stands in core; another package is a room of its own."""
    package, *rest = module.split(".")
    return rest[0] if package == "budgeted" and rest else package


@pytest.mark.parametrize("module", [name for name in MODULES if "." in name])
def test_a_room_imports_only_what_it_may(module):
    assert room(module) in ROOMS, "a new room: give it a line in the table"
    allowed = ROOMS[room(module)]
    if allowed is not None:
        foreign = {room(name) for name in imports(module)} - sys.stdlib_module_names - {room(module), "__future__"}
        assert foreign <= allowed


def test_the_reader_of_imports_sees_what_is_there():
    """The table holds nothing if the reader is blind."""
    assert {"budgeted.core.errors", "zoneinfo", "re"} <= set(imports("budgeted.core.budget"))
    assert "zoneinfo" not in set(imports("budgeted.core.budget", at_import=True))
    assert {"torch", "budgeted.core.ledger"} <= set(imports("budgeted.train.attach"))
    assert "budgeted.train.attach" not in set(imports("budgeted", at_import=True))


def test_no_import_circles():
    graph = {name: {other for other in imports(name, at_import=True) if other in MODULES} - {name} for name in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, with the circle


def imported_by(*arguments: str) -> set[str]:
    """The modules that a fresh interpreter imports; it reports each on stderr, however it ends."""
    command = [sys.executable, "-X", "importtime", *arguments]
    env = {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


HEAVY = {"torch", "torchvision", "matplotlib", "numpy", "sklearn", "safetensors", "pandas", "scipy", "plotly", "ray"}


def test_importing_the_package_imports_no_framework():
    modules = imported_by("-c", "import budgeted")
    assert "budgeted.core.budget" in modules
    assert not modules & HEAVY


@pytest.mark.skipif("budgeted.cli.main" not in MODULES, reason="the command line is not written yet")
def test_asking_for_help_imports_no_framework():
    modules = imported_by("-m", "budgeted.cli.main", "--help")
    assert "click" in modules
    assert not modules & HEAVY


def test_listing_the_studies_imports_no_framework():
    modules = imported_by("-m", "budgeted.cli.main", "study")
    assert "budgeted.study.read" in modules
    assert not modules & HEAVY


def test_a_heavy_import_would_be_seen():
    assert "torch" in imported_by("-c", "import budgeted; budgeted.attach") & HEAVY
