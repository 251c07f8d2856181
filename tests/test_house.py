"""The package as it installs: complete, of one version, found as a package and not as folders of the checkout."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

import lauepilot

PARTS = ("simulator", "perception", "envs", "agents", "hardware")
DATA = ("*.cif", "*.yaml", "*.csv", "*.json", "*.safetensors", "py.typed")


@pytest.fixture(scope="module")
def installed(project: Path) -> Path:
    home = Path(lauepilot.__file__).parent
    if project in home.parents and ".venv" not in home.parts:
        pytest.skip("an editable install has no files of its own to compare")
    return home


def _files(folder: Path) -> set[Path]:
    patterns = ("*.py", *DATA)
    return {path.relative_to(folder) for pattern in patterns for path in folder.rglob(pattern)}


def test_every_file_of_the_tree_is_installed(project: Path, installed: Path) -> None:
    wanted = _files(project / "src" / "lauepilot")
    for part in PARTS:
        wanted |= {Path(part) / path for path in _files(project / part)}
    assert len(wanted) > 20
    assert wanted - _files(installed) == set()


def test_version_is_one(project: Path) -> None:
    written = tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]
    assert lauepilot.__version__ == written == importlib.metadata.version("lauepilot")


def test_everything_that_is_required_is_pinned(project: Path) -> None:
    def plain(requirement: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[=<>!~;\[ ]", requirement, maxsplit=1)[0]).lower()

    lines = (project / "constraints.txt").read_text().splitlines()
    pinned = {plain(line) for line in lines if line and not line.startswith("#")}
    required = importlib.metadata.requires("lauepilot") or []
    assert required
    assert {plain(line) for line in required} - {
        "lauepilot"
    } <= pinned  # its own extras among those of the tests
