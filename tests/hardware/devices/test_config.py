from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest

from lauepilot.hardware.devices import config
from lauepilot.hardware.devices.config import (
    DevicesError,
    camera,
    goniometer,
    load_devices,
    parse_devices,
    usual_devices,
    wait_connected,
)
from lauepilot.hardware.devices.pv import AxisPV, check_unit, image_of
from lauepilot.hardware.errors import HardwareError
from lauepilot.simulator.instrument import InstrumentError, load_instrument

GOOD = """
instrument: lab
goniometer:
  axes:
    omega: {pv: "b:m1"}
    chi: {pv: "b:m2", direction: -1, offset: 45}
    phi: {pv: "b:m3"}
camera: {cam: "b:cam1:", image: "b:image1:"}
"""


@pytest.mark.parametrize("library", ["ophyd", "ophyd-async"])
def test_devices_from_a_file(small_folder, library):
    pytest.importorskip("epics" if library == "ophyd" else "aioca", reason="pip install lauepilot[epics]")
    camera, stage = load_devices(small_folder / f"{library}.yaml")
    assert stage.chain.names == ("omega", "chi", "phi")
    assert camera.instrument.name == "small"
    assert type(stage).__name__ == ("EpicsGoniometer" if library == "ophyd" else "AsyncEpicsGoniometer")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("direction: -1", "direction: 2", r"goniometer\.axes\.chi\.direction: .*1 or -1; got 2"),
        ("offset: 45", "offset: .nan", r"goniometer\.axes\.chi\.offset: .*finite"),
        ('"b:m1"', '"b m1"', r"goniometer\.axes\.omega\.pv: .*pattern"),
        ("instrument: lab", "instrument: lab\ncolour: red", r"colour: Extra inputs are not permitted"),
        ('camera: {cam: "b:cam1:", ', "camera: {", r"camera\.cam: Field required; got nothing"),
        (
            "instrument: lab",
            "instrument: lab\nlibrary: tango",
            r"library: .*'ophyd' or 'ophyd-async'; got 'tango'",
        ),
        (GOOD, "[1, 2]", "it holds list"),
        (GOOD, "a: [", "is not YAML"),
        (GOOD, "!!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_a_wrong_file_is_told_key_by_key(old, new, said):
    with pytest.raises(DevicesError, match=said):
        parse_devices(GOOD.replace(old, new), "my.yaml")


def test_what_does_not_exist_is_named(tmp_path):
    with pytest.raises(DevicesError, match="No file of devices"):
        load_devices(tmp_path / "none.yaml")
    with pytest.raises(InstrumentError, match="Did you mean 'lab'"):
        parse_devices(GOOD.replace("instrument: lab", "instrument: labb"))
    pytest.importorskip("epics", reason="pip install lauepilot[epics]")
    with pytest.raises(
        HardwareError, match="has the axes omega, chi, phi; motors are given for omega, chi, theta"
    ):
        parse_devices(GOOD.replace("phi:", "theta:"))


def test_two_axes_have_not_one_motor():
    pytest.importorskip("epics", reason="pip install lauepilot[epics]")
    with pytest.raises(HardwareError, match=r"motor b:m1 is given for several axes \(omega, phi\)"):
        parse_devices(GOOD.replace("b:m3", "b:m1"))


@pytest.mark.parametrize(
    ("unit", "egu", "good"),
    [
        ("deg", "degrees", True),
        ("deg", "", True),
        ("mm", " MM ", True),
        ("deg", "Eulerian", True),  # who knows
        ("deg", "mrad", False),
        ("deg", "mm", False),
        ("mm", "um", False),
        ("mm", "deg", False),
        ("mm", "steps", False),
    ],
)
def test_motors_of_other_units_are_refused(unit, egu, good):
    with (
        nullcontext()
        if good
        else pytest.raises(HardwareError, match=f"counts in '{egu}'.*but the axis in {unit}")
    ):
        check_unit("omega", AxisPV("b:m1"), unit, egu)


@pytest.mark.parametrize("library", ["ophyd", "ophyd-async"])
def test_units_are_looked_at_when_devices_connect(library, foreign_ioc, small_folder, run, monkeypatch):
    pytest.importorskip("epics" if library == "ophyd" else "aioca", reason="pip install lauepilot[epics]")
    text = (small_folder / f"{library}.yaml").read_text().replace("PREFIX", foreign_ioc.prefix)
    _, stage = parse_devices(text, library, small_folder)
    asked = []
    monkeypatch.setattr(config, "check_unit", lambda *what: asked.append(what))
    wait_connected(stage, timeout_s=30.0, loop=run.loop)
    assert [(name, axis.pv[-2:], unit) for name, axis, unit, _ in asked] == [
        ("omega", "m1", "deg"),
        ("chi", "m2", "deg"),
        ("phi", "m3", "deg"),
    ]


def test_an_axis_and_its_motor_may_count_against_each_other():
    axis = AxisPV("m", -1, 30.0)
    assert axis.axis(10.0) == 20.0
    assert axis.motor(axis.axis(12.345)) == pytest.approx(12.345)


def test_pixels_are_what_the_camera_counted():
    import numpy as np

    wire = np.array([-1, 2, 3, 4, 5, 6, 0, 0], np.int16)  # longer than the image, as records may be
    image = image_of(wire, 2, 3, "UInt16", "camera")
    np.testing.assert_array_equal(image, [[65535, 2, 3], [4, 5, 6]])
    assert image.dtype == np.uint16
    assert image_of(wire.astype(float), 2, 3, "UInt8", "camera").dtype == np.uint8
    with pytest.raises(HardwareError, match="sent 8 pixels, but says that its image has 3 x 3"):
        image_of(wire, 3, 3, "UInt16", "camera")
    with pytest.raises(HardwareError, match="'Complex64'"):
        image_of(wire, 2, 3, "Complex64", "camera")


def test_happi_makes_the_same_devices(tmp_path, foreign_ioc, run):
    happi = pytest.importorskip("happi", reason="pip install happi")
    pytest.importorskip("epics", reason="pip install lauepilot[epics]")
    axes = {
        name: {"pv": f"{foreign_ioc.prefix}{pv}"}
        for name, pv in (("omega", "m1"), ("chi", "m2"), ("phi", "m3"))
    }
    entries = {
        "stage": {
            "_id": "stage", "name": "stage", "type": "HappiItem", "active": True, "args": [],
            "device_class": "lauepilot.hardware.devices.config.goniometer",
            "kwargs": {"name": "{{name}}", "instrument": "lab", "axes": axes},
        },
        "film": {
            "_id": "film", "name": "film", "type": "HappiItem", "active": True, "args": [],
            "device_class": "lauepilot.hardware.devices.config.camera",
            "kwargs": {
                "name": "{{name}}", "instrument": "lab",
                "cam": f"{foreign_ioc.prefix}cam1:", "image": f"{foreign_ioc.prefix}image1:",
            },
        },
    }  # fmt: skip
    (tmp_path / "db.json").write_text(json.dumps(entries))
    client = happi.Client(path=str(tmp_path / "db.json"))
    stage, film = (client.load_device(name=name) for name in ("stage", "film"))
    wait_connected(stage, film)
    direct = goniometer(instrument="lab", axes=axes)
    assert type(stage).__mro__[1:] == type(direct).__mro__[1:]
    assert stage.name == "stage"
    assert stage.axes == direct.axes
    assert stage.position.keys() == {"omega", "chi", "phi"}
    assert film.name == "film"
    assert type(film).__mro__[1:] == type(camera(instrument="lab", cam="a:", image="b:")).__mro__[1:]


@pytest.mark.parametrize("library", ["ophyd", "ophyd-async"])
def test_who_does_not_answer_is_named(library, run):
    pytest.importorskip("epics" if library == "ophyd" else "aioca", reason="pip install lauepilot[epics]")
    devices = usual_devices("nobody:", load_instrument("lab"), library)
    with pytest.raises(
        HardwareError, match=r"No answer from nobody:cam1:Acquire, .* more within 0.5 s, asked at 127"
    ):
        wait_connected(*devices, timeout_s=0.5, loop=run.loop)


def test_importing_the_package_is_quick_and_needs_no_optional_package():
    code = (
        "import sys, lauepilot.hardware as h; "
        "assert not {'ophyd', 'bluesky', 'epics', 'aioca', 'ophyd_async', 'caproto'} & set(sys.modules); "
        "sys.modules['epics'] = sys.modules['aioca'] = sys.modules['ophyd_async'] = sys.modules['caproto'] = None; "
        "from lauepilot.hardware import LaueCamera, connect, load_devices; "
        "print(sorted(dir(h))[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="has no 'nothing'"):
        __import__("lauepilot.hardware").hardware.nothing  # noqa: B018


def test_joints_of_an_arm_are_no_motors_of_their_own():
    axes = {f"j{k}": {"pv": f"b:j{k}"} for k in range(1, 7)}
    file = {
        "instrument": "lab-arm",
        "goniometer": {"axes": axes},
        "camera": {"cam": "b:cam1:", "image": "b:image1:"},
    }
    with pytest.raises(DevicesError, match=r"file\.yaml: 'lab-arm' has an arm.*through its controller"):
        parse_devices(json.dumps(file), "file.yaml")
    with pytest.raises(DevicesError, match="has an arm"):
        goniometer(instrument="lab-arm", axes=axes)
    pytest.importorskip("epics", reason="pip install lauepilot[epics]")
    file["camera"]["twin"] = "b:twin:"  # our own IOC
    _, stage = parse_devices(json.dumps(file), "file.yaml")
    assert stage.chain.names == tuple(axes)


class Forgetful:
    """Connected, but as ophyd does now and then it has not told its motor the first value."""

    name = "stage"

    def __init__(self, heals):
        self.heals, self.pending = heals, True
        signal = SimpleNamespace(get=lambda use_monitor: 1)
        motor = SimpleNamespace(user_readback=signal, motor_done_move=signal, _pos_changed=lambda value: None)
        motor._move_changed = self.told
        self.motors = {"omega": motor}

    def told(self, value):
        assert value == 1
        self.pending = not self.heals

    def walk_signals(self, include_lazy):
        return []

    def wait_for_connection(self, all_signals, timeout):
        if self.pending:
            raise TimeoutError("Pending operations: _move_changed subscription")


def test_ophyds_motors_are_told_the_first_values_that_they_missed(monkeypatch):
    monkeypatch.setattr(config, "PROD_S", 0.01)
    stage = Forgetful(heals=True)
    wait_connected(stage, timeout_s=60.0)
    assert not stage.pending
    with pytest.raises(HardwareError, match="stage cannot be connected: Pending operations: _move_changed"):
        wait_connected(Forgetful(heals=False), timeout_s=0.05)


def test_a_motor_that_cannot_be_told_to_stop_does_not_keep_it_from_the_others(caplog):
    pytest.importorskip("epics", reason="pip install lauepilot[epics]")
    from lauepilot.hardware.devices.epics import EpicsGoniometer

    told = []

    def put(value, wait, name):
        told.append(name)
        if name == "omega":
            raise PermissionError("no right to write")

    motors = {
        name: SimpleNamespace(
            prefix=name, connected=True, _moving=True, motor_stop=SimpleNamespace(put=partial(put, name=name))
        )
        for name in ("omega", "chi")
    }
    EpicsGoniometer.stop(SimpleNamespace(_motion=None, motors=motors))
    assert told == ["omega", "chi"]
    assert "omega could not be told to stop: no right to write" in caplog.text
