"""The floors of the library: imports go down, never sideways or up, and every module has its tests."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "deeplimits"
# "checks" and "verdict" lie below floor 0: they import nothing of ours and everybody may use them. A new
# module must be given a floor here before it can be imported.
FLOORS = [
    {"checks", "verdict"},
    {"runtime", "activations", "statistics", "data", "fused", "tables"},
    {"weights", "resnet", "diffusion", "laws", "growth", "theory", "claims", "plotting", "blocks"}
    | {"graphs", "cluster", "wide", "direction"},
    {"classification", "training", "diagnosis", "correlated"},
    {"mean_ode", "sweeps", "diagnose"},
    {"lazy"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path.stem for path in SOURCE.glob("*.py") if path.stem != "__init__")


def imported(module: str) -> set[str]:
    """Names of our own modules that ``module`` imports, whatever the form of the import."""
    names = set()
    for node in ast.walk(ast.parse((SOURCE / f"{module}.py").read_text("utf8"))):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("deeplimits.")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            names |= {node.module} if node.module else {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "deeplimits":
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deeplimits."):
            names.add(node.module.split(".")[1])
    return names


def test_every_module_has_a_floor_and_a_test_file():
    assert set(MODULES) == set(FLOOR)
    assert [m for m in MODULES if not (ROOT / "tests" / f"test_{m}.py").exists()] == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    assert [other for other in imported(module) if FLOOR[other] >= FLOOR[module]] == []


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_short_and_documented(module):
    text = (SOURCE / f"{module}.py").read_text("utf8")
    assert len(text.splitlines()) <= 400, f"{module}.py outgrew 400 lines: make it a folder of small files"
    tree = ast.parse(text)
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    assert ast.get_docstring(tree) and [n.name for n in public if not ast.get_docstring(n)] == []


def test_only_runtime_seeds():
    seeding = [m for m in MODULES if "manual_seed" in (SOURCE / f"{m}.py").read_text("utf8")]
    assert seeding == ["runtime"]


def test_package_docstring_maps_every_module():
    import deeplimits

    rows = re.findall(r"^(?:Ground|Floor \d)? +(\w+)  +\w", deeplimits.__doc__, re.MULTILINE)
    assert sorted(rows) == MODULES
