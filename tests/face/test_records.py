"""Records from the command line: killed runs gone on with, lists, exports, and the copy in Tiled."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import warnings
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lauepilot.cli import app
from lauepilot.cli.options import CATALOGUE
from lauepilot.hardware.records.dataset import read_run
from lauepilot.hardware.records.documents import find_run, read_record
from lauepilot.hardware.resume import entries
from lauepilot.perception.files.readers import read_any, read_frame

pytestmark = pytest.mark.usefixtures("without_pictures")
SEED = "1"


def killed_when_told(folder, line, *arguments):
    """Run ``lauepilot align`` in a process of its own and kill it at once when it prints a line that begins so."""
    command = [sys.executable, "-m", "lauepilot", "align", *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        said = []
        for text in process.stdout:
            said.append(text)
            if text.split()[: len(line)] == list(line):
                break
        process.kill()
        assert process.wait() == -9, "".join(said)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the run ``whole``, in the usual catalogue too, and the run ``part``, killed in its first move."""
    folder = tmp_path_factory.mktemp("home")
    # At twice the clock the first move takes seconds: whoever hears of it is in time.
    killed_when_told(folder, ("1", "Expose"), "--seed", SEED, "--speed", "2", "--out", "part")
    tiled = [] if missing("tiled", "bluesky_tiled_plugins") else ["--tiled"]
    with chdir(folder), warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("lauepilot.cli.align_report.draw", lambda indexed, path, title: path.write_bytes(b""))
        warnings.simplefilter("ignore")  # of Tiled's own dependencies
        result = CliRunner().invoke(
            app, ["align", "--seed", SEED, "--speed", "0", "--out", "whole", *tiled], catch_exceptions=False
        )
    assert result.exit_code == 0, result.stderr
    assert not tiled or result.stdout.endswith(f"and in Tiled: {CATALOGUE}\n")
    return folder


def missing(*packages):
    return any(importlib.util.find_spec(name) is None for name in packages)


@pytest.fixture
def tiled():
    for package in ("tiled", "bluesky_tiled_plugins", "xarray"):
        pytest.importorskip(package, reason="pip install lauepilot[data]")


def told(folder):
    """What was decided, to far below a motor's step, and which frames were taken."""

    def rounded(axes):
        return None if axes is None else {name: round(value, 6) for name, value in axes.items()}

    return [
        (
            type(e.decision).__name__, e.decision.reason, rounded(getattr(e.decision, "axes", None)), rounded(e.axes),
            round(e.clock_s, 6), round(e.dose_s, 6),
            None if e.frame is None else hashlib.sha256(read_frame(e.frame).counts).hexdigest(),
        )
        for e in entries(find_run(folder))
    ]  # fmt: skip


def frames(folder):
    return len(list((find_run(folder) / "frames").iterdir()))


def test_a_killed_process_is_gone_on_with_as_if_nothing_had_been(home, lauepilot_json, tmp_path):
    part = find_run(home / "part")
    assert not (part / "run.json").exists()
    seen, code = lauepilot_json("records", "show", home / "part")
    assert (code, seen["ended"], seen["exposures"]) == (0, "unfinished", 1)
    summary, code = lauepilot_json(
        "align", "--resume", home / "part", "--speed", 0, "--out", tmp_path / "resumed"
    )
    assert (summary["outcome"], code) == ("declared", 0)
    assert told(tmp_path / "resumed") == told(home / "whole")
    # no exposure twice, and the truth that the referee knows is that of a run that was never killed
    assert frames(home / "part") + frames(tmp_path / "resumed") == frames(home / "whole")
    whole = json.loads((home / "whole" / "summary.json").read_text())
    for key in ("seed", "target", "clock_s", "dose_s"):
        assert summary[key] == pytest.approx(whole[key]) if key != "target" else whole[key], key
    np.testing.assert_allclose(summary["U"], whole["U"], atol=1e-6)
    # the old record is closed and says why; the new one names it
    assert "killed" in json.loads((part / "run.json").read_text())["reason"]
    assert read_record(tmp_path / "resumed").start["resumed_from"]["uid"] == read_record(part).uid


@pytest.mark.slow
def test_killed_three_times(home, lauepilot, tmp_path):
    """Before the first decision, in the first move, in the second exposure: each time another process goes on."""
    killed_when_told(tmp_path, ("step", "decision"), "--seed", SEED, "--speed", "2", "--out", "1")
    killed_when_told(tmp_path, ("1", "Expose"), "--resume", "1", "--speed", "2", "--out", "2")
    killed_when_told(tmp_path, ("2", "Move"), "--resume", "2", "--speed", "2", "--out", "3")
    result = lauepilot("align", "--resume", "3", "--speed", 0, "--out", "4")
    assert result.exit_code == 0, result.stderr
    assert "going on with 3/" in result.stdout
    assert told(tmp_path / "4") == told(home / "whole")
    assert sum(frames(tmp_path / name) for name in "1234") == frames(home / "whole")


def test_what_cannot_be_gone_on_with_says_so(home, lauepilot_json, tmp_path):
    for options, said in (
        (("--resume", tmp_path), "No run in"),
        (("--resume", home / "whole"), "came to its end: declared"),
    ):
        found, code = lauepilot_json("align", *options, "--speed", 0)
        assert code == 5
        assert said in found["error"]
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["--epics=lab:", "--devices=mine.yaml"])
def test_motors_are_not_left_aside_in_silence(where):
    done = CliRunner().invoke(app, ["align", "--resume", "run", where, "--json"])
    assert done.exit_code == 2
    assert "On real motors go on from Python" in json.loads(done.stdout)["error"]


def test_the_list_shows_every_run_even_one_that_cannot_be_read(home, lauepilot_json, lauepilot, tmp_path):
    stillborn = tmp_path / "20261121T101500-stillborn"
    stillborn.mkdir()
    (stillborn / "documents.jsonl.part").write_text("")
    (tmp_path / "whole").symlink_to(home / "whole")
    found, code = lauepilot_json("records", "list", tmp_path)
    assert code == 0
    first, second = found["runs"]
    assert (first["ended"], first["folder"]) == ("unreadable", str(stillborn))
    assert "killed before it began" in first["reason"]
    assert (second["ended"], second["plan"], second["crystal"]) == ("success", "align_crystal", "si")
    assert second["exposures"] == frames(home / "whole")
    assert second["uid"] == read_record(home / "whole").uid
    for result in (lauepilot("records", "list", tmp_path), lauepilot("records", "list", home)):
        assert result.exit_code == 0
        assert "align_crystal" in result.stdout
    found, code = lauepilot_json("records", "list", tmp_path / "nowhere")
    assert (code, "lauepilot-runs/ by default" in found["error"]) == (2, True)


def test_one_run_is_shown_step_by_step(home, lauepilot_json, lauepilot):
    record = read_record(home / "whole")
    found, code = lauepilot_json("records", "show", home, "--run", record.uid[:6])
    assert code == 0
    assert (found["uid"], found["ended"]) == (record.uid, "success")
    assert found["versions"]["lauepilot"]
    summary = json.loads((home / "whole" / "summary.json").read_text())
    assert [(s["step"], s["decision"], s["reason"]) for s in found["steps"]] == [
        (s["step"], s["decision"], s["reason"]) for s in summary["steps"]
    ]
    assert {s["verdict"] for s in found["steps"]} == {"allowed"}
    shown = lauepilot("records", "show", home / "whole").stdout
    assert record.uid in shown
    assert all(step["reason"] in shown for step in found["steps"])
    assert lauepilot_json("records", "show", home)[0]["uid"] == record.uid  # the newest, where none is named
    found, code = lauepilot_json("records", "show", home, "--run", "zz")
    assert (code, "begins with 'zz'" in found["error"]) == (5, True)


def test_a_run_is_exported_as_nexus(home, lauepilot_json, lauepilot):
    found, code = lauepilot_json("records", "export", home / "whole", "--nexus", "run.nxs")
    assert (code, found["nexus"]) == (0, "run.nxs")
    taken = sorted((home / "whole" / "frames").iterdir())
    np.testing.assert_array_equal(
        read_any("run.nxs", index=len(taken) - 1).frame.counts, read_frame(taken[-1]).counts
    )
    found, code = lauepilot_json("records", "export", home / "whole")
    assert (code, "--nexus" in found["error"]) == (2, True)
    result = lauepilot("records", "export", home / "whole", "--nexus", "none/run.nxs")
    assert result.exit_code != 0
    assert not Path("none").exists()


@pytest.mark.filterwarnings("ignore")  # of Tiled's own dependencies
@pytest.mark.usefixtures("tiled")
class TestTiled:
    def test_the_copy_in_the_usual_catalogue_is_the_run(self, home, lauepilot_json):
        catalogue = home / CATALOGUE
        here = read_run(home / "whole")
        there = read_run(catalogue, here.attrs["uid"])
        assert there.identical(here)
        assert there.image.dims == ("primary", "row", "col")
        assert json.loads((home / "whole" / "summary.json").read_text())["files"]["tiled"] == CATALOGUE
        found, code = lauepilot_json("records", "list", catalogue)
        assert code == 0
        assert here.attrs["uid"] in [run["uid"] for run in found["runs"]]
        assert (
            lauepilot_json("records", "show", catalogue, "--run", here.attrs["uid"])[0]["ended"] == "success"
        )
        found, code = lauepilot_json("records", "export", home / "whole", "--tiled", catalogue)
        assert (code, "already" in found["error"]) == (2, True)
        found, code = lauepilot_json("records", "export", catalogue, "--tiled", "elsewhere")
        assert (code, "in Tiled already" in found["error"]) == (2, True)

    def test_tiled_fails_meanwhile_and_the_run_goes_on(self, home, lauepilot, lauepilot_json, monkeypatch):
        import lauepilot.cli.tiled as module

        real = module.tiled_writer

        def breaking(client):
            writer, left = real(client), [4]

            def write(name, doc):
                left[0] -= 1
                if left[0] < 0:
                    raise ConnectionError("the server went away")
                writer(name, doc)

            return write

        monkeypatch.setattr(module, "tiled_writer", breaking)
        result = lauepilot("align", "--seed", SEED, "--speed", 0, "--out", "run", "--tiled", home / CATALOGUE)
        assert result.exit_code == 0, result.stderr
        assert "the server went away" in result.stdout
        assert lauepilot_json("records", "show", home / CATALOGUE)[0]["ended"] == "unfinished"  # the newest
        # What it says is what helps.
        again = result.stdout.strip().splitlines()[-1].partition("hand it over: lauepilot ")[2]
        assert lauepilot(*again.split()).exit_code == 0
        assert read_run(home / CATALOGUE).identical(read_run("run"))

    def test_what_cannot_be_written_to_is_said_before_anything_moves(self, lauepilot_json, tmp_path, once):
        (tmp_path / "file").write_text("")
        for where, said in (
            ("file/below", "cannot be made"),
            ("http://127.0.0.1:9/", "No Tiled server answers"),
            ("http://me@127.0.0.1:9/", "TILED_API_KEY"),
        ):
            found, code = lauepilot_json("align", "--seed", SEED, "--out", "run", "--tiled", where)
            assert code == 5
            assert said in found["error"]
            assert not Path("run").exists()

    @pytest.fixture
    def once(self):
        """Tiled's client asks once, instead of ten times in half a minute."""
        with pytest.importorskip("stamina", reason="Tiled brings it along").set_testing(True, attempts=1):
            yield

    @pytest.mark.slow
    def test_a_server_by_its_url(self, home, lauepilot, lauepilot_json, tmp_path, monkeypatch):
        from tiled.server import SimpleTiledServer

        with SimpleTiledServer(tmp_path / "tiled", api_key="secret") as server:
            url = f"http://127.0.0.1:{server.port}"
            options = ("align", "--seed", SEED, "--speed", 0, "--out", "run", "--tiled", url)
            monkeypatch.setenv("TILED_API_KEY", "secret")
            result = lauepilot(*options)
            assert result.exit_code == 0, result.stderr
            there = read_run(url)
            listed = lauepilot_json("records", "list", url)[0]["runs"]
        assert there.identical(read_run("run"))
        assert [run["uid"] for run in listed] == [there.attrs["uid"]]
