"""``lauepilot align --epics``: the decisions over Channel Access are those made in process."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lauepilot.bench.hardware.epics import SPEED, overhead_s, play_inside, play_outside, same_decisions
from lauepilot.cli.epics import run_align_epics
from lauepilot.cli.output import Exit, UserError
from lauepilot.hardware.epics.environment import loopback_unless_told

pytest.importorskip("caproto", reason="needs caproto: pip install lauepilot[epics]")


@pytest.fixture(scope="module")
def inside():
    return play_inside(5)


@pytest.mark.parametrize("library", ["ophyd", pytest.param("ophyd-async", marks=pytest.mark.slow)])
def test_the_same_decisions_as_in_process(inside, library):
    pytest.importorskip("epics" if library == "ophyd" else "aioca", reason="pip install lauepilot[epics]")
    before, outside = play_outside([2, 5], library)  # one crystal after the other in one IOC
    assert not isinstance(before, str), before
    assert not isinstance(outside, str), outside
    assert outside.outcome == inside.outcome == "declared"
    assert same_decisions(outside, inside)
    assert not same_decisions(before, inside)
    assert len(inside.decisions) > 3
    assert overhead_s(outside) < 3.0  # the figure is the benchmark's; here it must not be a hang


def test_decisions_are_compared_to_rounding(inside):
    def changed(place, value):
        decisions = [list(decision) for decision in inside.decisions]
        decisions[1][place] = value
        return replace(inside, decisions=tuple(map(tuple, decisions)))

    axes, clock_s = dict(inside.decisions[1][3]), inside.decisions[1][5]
    for off, same in ((4e-6, True), (2e-5, False)):  # of a step of 0.001 deg
        moved = {**axes, "omega": axes["omega"] + off}
        assert same_decisions(changed(3, tuple(sorted(moved.items()))), inside) is same
    assert same_decisions(changed(5, clock_s + 1e-9), inside)
    assert not same_decisions(changed(5, clock_s + 0.1), inside)
    assert not same_decisions(changed(0, "GiveUp"), inside)
    assert not same_decisions(replace(inside, decisions=inside.decisions[:-1]), inside)


@pytest.mark.slow
@pytest.mark.parametrize("use_async", [False, True])
def test_the_command_leaves_a_record_as_in_process(inside, tmp_path, use_async, capsys):
    from lauepilot.hardware.epics.process import running_ioc

    with running_ioc(seed=5, speed=SPEED) as ioc:
        code = run_align_epics(
            prefix=ioc.prefix, use_async=use_async, crystal="si", instrument="lab", target="[0 0 1] beam",
            agent="index-and-move", out=tmp_path / "run", as_json=True,
        )  # fmt: skip
    assert code == Exit.DONE
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert json.loads(capsys.readouterr().out)["outcome"] == summary["outcome"] == "declared"
    assert [step["decision"] for step in summary["steps"]] == [d[0] for d in inside.decisions]
    assert summary["truth"] is None
    assert summary["clock_s"] == pytest.approx(inside.clock_s, abs=60.0)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["exit_status"] == "success"
    for name in ("ub.json", "documents.jsonl", "frames/frame_0001.h5", "first_pattern.png"):
        assert (tmp_path / "run" / name).is_file()


def test_only_this_machine_is_asked_unless_the_user_says_otherwise():
    environ: dict[str, str] = {}
    assert loopback_unless_told(environ)
    assert environ == {"EPICS_CA_ADDR_LIST": "127.0.0.1", "EPICS_CA_AUTO_ADDR_LIST": "NO"}
    told = {"EPICS_CA_ADDR_LIST": "10.0.0.7"}
    assert not loopback_unless_told(told)
    assert told == {"EPICS_CA_ADDR_LIST": "10.0.0.7"}


def test_what_cannot_be_is_refused_before_anything_is_asked(tmp_path):
    wrong = {
        "crystal": "si",
        "instrument": "lab",
        "target": "[0 0 1] beam",
        "agent": "index-and-move",
        "out": tmp_path / "a",
        "as_json": True,
    }
    for prefix, words in (("a b:", "pattern"), (None, "either --epics PREFIX")):
        with pytest.raises(UserError, match=words):
            run_align_epics(prefix=prefix, **wrong)
    with pytest.raises(UserError, match=r"smart-expose on real motors; 'oracle' came"):
        run_align_epics(prefix="lab:", **{**wrong, "agent": "oracle"})
    assert not (tmp_path / "a").exists()
