"""The house: rooms import from floors below only, help is instant, and documents and commands exist."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "mdae"

# Ground floor first; a room imports from its own and from lower floors.
FLOORS = [
    {
        "text",
        "notices",
        "types",
        "options",
        "errors",
        "extras",
        "version",
        "seeding",
        "tensors",
        "files",
        "claims",
        "progress",
        "figures",
        "devices",
        "child",
        "foreground",
        "plugin",
    },
    {"data"},
    {"tasks"},
    {"corruption"},
    {"networks"},
    {"objectives"},
    {"interop"},
    {"training"},
    {"evaluation"},
    {"inference"},
    {"report"},
    {"sweep"},
    {"commands", "cli", "__main__", "__init__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("mdae.")}
    return rooms


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_from_floors_below(path):
    own = FLOOR[room_of(path)]
    above = sorted(room for room in imported(path) if FLOOR[room] > own)
    assert not above, f"{path.name} on floor {own} imports {above}"


def modules() -> dict[str, set[str]]:
    """Every module with the modules that it imports, anywhere in it but for types."""
    paths = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
    }
    found = {}
    for name, path in paths.items():
        tree = ast.parse(path.read_text())
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            for inner in ast.walk(node)
        }
        wanted = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and id(node) not in for_types:
                wanted |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            elif isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
        found[name] = wanted & paths.keys()
    return found


def test_no_modules_import_each_other_in_a_circle():
    left = modules()
    while free := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in free:
            del left[name]
    circles = {
        name for name, wanted in left.items() if any(name in left[other] for other in wanted & left.keys())
    }
    assert not left, f"in circles, or above one: {sorted(circles) or sorted(left)}"


# The rooms of the evaluation, likewise.
EVALUATION = [
    {"configs", "draws", "statistics"},
    {"features", "probing"},
    {"voxel_probe", "finetuning"},
    {"cohort", "results"},
    {"nnunet"},
    {"segment"},
    {"online", "whole_scans"},
    {"evaluate"},
]
STOREY = {room: storey for storey, rooms in enumerate(EVALUATION) for room in rooms}
OPTIONS = "config"  # options of a room, which the command line reads without it


def test_rooms_of_the_evaluation_import_from_storeys_below():
    for name, wanted in modules().items():
        if not name.startswith("mdae.evaluation.") or name.count(".") < 2 or name.endswith(f".{OPTIONS}"):
            continue
        own = STOREY.get(name.split(".")[2])
        rooms = {
            other.split(".")[2]
            for other in wanted
            if other.startswith("mdae.evaluation.") and not other.endswith(f".{OPTIONS}")
        }
        above = sorted(room for room in rooms if own is not None and STOREY.get(room, 0) > own)
        assert not above, f"{name} imports {above}"


def test_files_and_functions_stay_small():
    lengths = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") < 400, f"{path} is more than one idea"
        functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef))
        lengths += [n.end_lineno - n.lineno + 1 for n in functions]
    lengths.sort()
    assert lengths[len(lengths) // 2] <= 14 and lengths[-1] <= 80


@pytest.mark.parametrize("command", ["import mdae", "import mdae.cli"])
def test_importing_is_fast_because_nothing_heavy_comes_along(command):
    heavy = "('torch', 'sklearn', 'pandas', 'nilearn', 'torchvision')"
    check = f"import sys; {command}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_nothing_imports_what_has_no_cpu_build():
    check = "import sys, mdae.report.demo; print([m for m in ('torchvision', 'timm') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"
