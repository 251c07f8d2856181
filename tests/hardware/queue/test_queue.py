from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from bluesky import plan_stubs as bps

from lauepilot.cli.output import UserError
from lauepilot.cli.queue import run_queue_startup
from lauepilot.hardware.errors import HardwareError
from lauepilot.queue_startup.folder import server_arguments, write_folder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:bluesky_queueserver")

pytest.importorskip(
    "bluesky_queueserver", reason="bluesky-queueserver is not installed: pip install 'lauepilot[queue]'"
)


@pytest.fixture(autouse=True)
def empty(request):
    """An empty queue and history before each test that has the server."""
    if "queue" in request.fixturenames:
        queue = request.getfixturevalue("queue")
        queue.ask("queue_clear")
        queue.ask("history_clear")


def records(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("records/*/run.json"))]


def test_plans_are_offered_with_types_ranges_and_words(queue):
    plans = queue.ask("plans_allowed", user_group="primary")["plans_allowed"]
    assert set(plans) == {"align_crystal", "scan_orientations", "count_until", "calibrate_instrument"}
    for name, plan in plans.items():
        assert plan["description"], name
        for parameter in plan["parameters"]:
            assert parameter["annotation"]["type"], (name, parameter["name"])
            assert len(parameter["description"]) > 10, (name, parameter["name"])
    align = {p["name"]: p for p in plans["align_crystal"]["parameters"]}
    assert align["crystal"]["default"] == "'si'"
    assert "ca2ruo4" in align["crystal"]["annotation"]["enums"]["Crystals"]
    assert (align["max_steps"]["min"], align["max_steps"]["max"]) == ("1", "1000")
    devices = queue.ask("devices_allowed", user_group="primary")["devices_allowed"]
    assert {"camera", "goniometer"} <= set(devices)
    assert "omega" in devices["goniometer"]["components"]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("align_crystal", {"target": 5}, "target"),
        ("align_crystal", {"crystal": "kryptonite"}, "kryptonite"),
        ("align_crystal", {"max_steps": 0}, "max_steps"),
        ("align_crystal", {"speed": 3}, "speed"),
        ("align_crystal", {"agent": "os.system"}, "agent"),
        ("scan_orientations", {"positions": [{"omega": "far"}], "exposure_s": 1.0}, "positions"),
        ("scan_orientations", {"positions": [{"omega": 1.0}], "exposure_s": -1.0}, "out of range"),
        ("scan_orientations", {"exposure_s": 1.0}, "positions"),
        ("count_until", {"criterion": "long", "max_s": 1.0}, "criterion"),
        ("rm_rf", {}, "rm_rf"),
    ],
)
def test_bad_arguments_are_refused_before_they_are_queued(queue, name, arguments, said):
    answer = queue.add(name, **arguments)
    assert not answer["success"]
    assert said in answer["msg"]
    assert queue.status()["items_in_queue"] == 0


def test_a_plan_runs_to_its_end(queue, startup_folder):
    positions = [{"omega": 3.0}, {"omega": -3.0, "chi": 2.0}]
    assert queue.add("scan_orientations", positions=positions, exposure_s=0.5, sample="si 7")["success"]
    assert queue.ask("queue_start")["success"]
    queue.wait("executing_queue", 10)
    queue.wait("idle")
    (item,) = queue.history()
    assert item["result"]["exit_status"] == "completed"
    (uid,) = item["result"]["run_uids"]
    (run,) = [r for r in records(startup_folder) if r["uid"] == uid]
    assert (run["exit_status"], len(run["frames"])) == ("success", 2)


def test_what_only_the_instrument_can_refuse_fails_in_words_and_stops_the_queue(queue):
    queue.add("scan_orientations", positions=[{"omega": 5000.0}], exposure_s=0.5)
    queue.add("count_until", criterion={"kind": "time", "seconds": 0.2}, max_s=1.0)
    queue.ask("queue_start")
    queue.wait("executing_queue", 10)
    queue.wait("idle")
    (item,) = queue.history()
    assert item["result"]["exit_status"] == "failed"
    assert "limits are -100 to 100 deg" in item["result"]["msg"]
    assert queue.status()["items_in_queue"] == 2  # the failed one is back in front


def test_names_of_files_stay_in_their_folder(queue, startup_folder):
    queue.add("calibrate_instrument", out="../../stolen.yaml")
    queue.ask("queue_start")
    queue.wait("executing_queue", 10)
    queue.wait("idle")
    (item,) = queue.history()
    assert item["result"]["exit_status"] == "failed"
    assert "without folder" in item["result"]["msg"]
    assert not list(startup_folder.parent.rglob("stolen.yaml"))


def test_a_running_plan_can_be_aborted(queue, startup_folder):
    queue.add("count_until", criterion={"kind": "time", "seconds": 2000.0}, max_s=4000.0)
    queue.ask("queue_start")
    queue.wait("executing_queue", 10)
    queue.until(lambda s: s["running_item_uid"] and s["re_state"] == "running")
    assert queue.ask("re_pause", option="immediate")["success"]
    queue.wait("paused")
    assert queue.ask("re_abort")["success"]
    queue.wait("idle")
    (item,) = queue.history()
    assert item["result"]["exit_status"] == "aborted"
    (uid,) = item["result"]["run_uids"]
    (run,) = [r for r in records(startup_folder) if r["uid"] == uid]
    assert run["exit_status"] == "abort"


def test_an_alignment_runs_in_the_queue(queue, startup_folder):
    assert queue.add("align_crystal", target="[0 0 1] beam", max_steps=20, must_declare=False)["success"]
    queue.ask("queue_start")
    queue.wait("executing_queue", 10)
    queue.wait("idle", 120)
    (item,) = queue.history()
    assert item["result"]["exit_status"] == "completed", item["result"]["msg"]
    (uid,) = item["result"]["run_uids"]
    (run,) = [r for r in records(startup_folder) if r["uid"] == uid]
    assert run["exit_status"] == "success"
    assert run["reason"].split(":")[0] in ("declared", "gave_up")


def test_the_command_writes_a_folder_once(tmp_path, capsys):
    how = {
        "folder": tmp_path / "q", "crystal": "si", "instrument": "lab", "devices": None, "records": tmp_path / "r",
        "speed": 60.0, "four_circle": False, "as_json": True,
    }  # fmt: skip
    assert run_queue_startup(**how) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["written"] is True
    assert said["folder"] == str(tmp_path / "q")
    text = (tmp_path / "q" / "startup.py").read_text()
    compile(text, "startup.py", "exec")
    (tmp_path / "q" / "startup.py").write_text("# mine\n")
    assert run_queue_startup(**how) == 0
    assert json.loads(capsys.readouterr().out)["written"] is False
    assert (tmp_path / "q" / "startup.py").read_text() == "# mine\n"
    with pytest.raises(UserError, match="no such file"):
        run_queue_startup(**{**how, "devices": tmp_path / "none.yaml"})
    with pytest.raises(UserError, match="positive"):
        run_queue_startup(**{**how, "speed": float("nan")})


def test_devices_are_connected_in_the_engines_loop(monkeypatch, tmp_path, world):
    from lauepilot.queue_startup import profile

    loops = []
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", "127.0.0.1")
    monkeypatch.setattr(profile, "load_devices", lambda path: (world.camera, world.goniometer))
    monkeypatch.setattr(profile, "wait_connected", lambda *_, loop: loops.append(loop))
    engine = profile.start(devices="devices.yaml", records=str(tmp_path))["RE"]
    try:
        assert loops == [engine.loop]
        assert engine.loop.is_running()
    finally:
        engine.loop.call_soon_threadsafe(engine.loop.stop)
        engine._th.join()
        engine.loop.close()


def test_settings_cannot_become_code(tmp_path):
    evil = "si'); import os; os.abort() #"
    write_folder(tmp_path, {"crystal": evil})
    import ast

    tree = ast.parse((tmp_path / "startup.py").read_text())
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert evil in strings
    assert not any(isinstance(node, ast.Import) for node in ast.walk(tree))


def test_the_server_listens_on_this_machine_only(tmp_path):
    command = server_arguments(tmp_path)
    for option in ("--zmq-control-addr", "--zmq-info-addr"):
        assert command[command.index(option) + 1].startswith("tcp://127.0.0.1:")


def test_a_refused_alignment_fails_the_item(world, scripted, target, engine, monkeypatch):
    from lauepilot.hardware.queue.plans import NotReachedError, Workplace, queue_plans
    from lauepilot.perception.observation import GiveUp
    from lauepilot.simulator.crystal import load_crystal

    monkeypatch.setattr("lauepilot.hardware.plans.align.usual_observer", lambda task: world.observer)

    class Agent(type(scripted(GiveUp("no spots")))):
        def __init__(self):
            super().__init__(GiveUp("no spots"))

    place = Workplace(world.camera, world.goniometer, {"a": Agent}, ["si"], lambda text: target, None)
    plans = queue_plans(place)
    assert "build_ub" not in plans
    assert load_crystal("si").name == "si"
    with pytest.raises(NotReachedError, match=r"gave_up: no spots The queue stops here"):
        engine(plans["align_crystal"]())
    assert issubclass(NotReachedError, HardwareError)
    assert engine(plans["align_crystal"](must_declare=False)).plan_result.outcome == "gave_up"


@pytest.mark.parametrize("name", ["calibrate_instrument", "build_ub"])
def test_what_was_not_calibrated_or_found_fails_the_item_too(
    world, target, engine, monkeypatch, name, tmp_path
):
    from lauepilot.hardware.queue import plans

    def ended(*_, **__):
        yield from bps.null()
        return SimpleNamespace(
            outcome=outcome, reason="fog.", answer=SimpleNamespace(outcome=outcome, reason="fog.")
        )

    monkeypatch.setattr(plans, "calibrate", ended)
    monkeypatch.setattr(plans, "find_ub", ended)
    place = plans.Workplace(
        world.camera, world.goniometer, {"a": object}, ["si"], lambda text: target, tmp_path, (None, None)
    )
    plan = plans.queue_plans(place)[name]
    outcome = "refused"
    with pytest.raises(plans.NotReachedError, match=r"fog\. The queue stops here"):
        engine(plan())
    outcome = {"calibrate_instrument": "calibrated", "build_ub": "found"}[name]
    assert engine(plan()).plan_result.reason == "fog."
