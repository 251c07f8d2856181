"""What a module keeps to itself stays there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lauepilot.perception.judge

MODULES = sorted(Path(lauepilot.perception.judge.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: "/".join(path.parts[-2:]))
def test_nothing_private_crosses_a_module(path: Path) -> None:
    tree = ast.parse(path.read_text())
    own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    own |= {
        n.target.id for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    theirs = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} - own
    theirs |= {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    # A named tuple's fields must be free to have any name, so its methods begin with a line; they are public.
    private = {n for n in theirs if n.startswith("_") and not n.endswith("__")}
    assert private <= {"_replace", "_asdict", "_fields"}
