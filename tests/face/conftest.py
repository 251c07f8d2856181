"""The command line in this process: fast, and with what it prints apart from what it complains of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lauepilot.cli import app


def no_picture(indexed, path, title):
    """In the stead of the picture of a pattern, which takes longer to draw than the alignment that it shows."""
    path.write_bytes(b"")


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch):
    """``lauepilot align`` in this process leaves empty files in the stead of its pictures."""
    monkeypatch.setattr("lauepilot.cli.align_report.draw", no_picture)


@pytest.fixture
def lauepilot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run ``lauepilot ARGS`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAUEPILOT_DEBUG", raising=False)

    def run(*arguments: object):
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)

    return run


@pytest.fixture
def lauepilot_json(lauepilot):
    """The same with ``--json``: the one object on standard output, and the exit code."""

    def run(*arguments: object):
        result = lauepilot(*arguments, "--json")
        lines = result.stdout.splitlines()
        assert len(lines) == 1, result.stdout + result.stderr
        return json.loads(lines[0]), result.exit_code

    return run
