"""Instruments: beam, detectors and goniometer, read from YAML and validated.

The dataclasses of the neighbouring modules are what the program works with; the pydantic models here stand at the
border only, and turn a wrong file into a message that names file, key, value and what is allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lauepilot.simulator.arm.model import ArmError
from lauepilot.simulator.arm.mount import ArmStage
from lauepilot.simulator.beams import spectrum_problems
from lauepilot.simulator.conventions import FloatArray
from lauepilot.simulator.detector import Background, Detector, Region, Sensor
from lauepilot.simulator.forbidden import Forbidden
from lauepilot.simulator.goniometer import Axis, Goniometer


class InstrumentError(ValueError):
    """An instrument that does not exist or whose file is wrong."""


@dataclass(frozen=True)
class Beam:
    """The incident beam, along +z.

    Attributes
    ----------
    radiation
        ``xray`` or ``neutron``.
    spectrum
        ``kind``, a name in `lauepilot.simulator.beams.SPECTRA`, with the constructor's arguments, as in the YAML file.
    size_mm
        Full widths at the sample (x, y).
    divergence_deg
        Full width of the directions.
    polarisation
        Degree of linear polarisation along x, -1..1; 0 for a tube.
    """

    radiation: Literal["xray", "neutron"]
    spectrum: Mapping[str, Any]
    size_mm: tuple[float, float]
    divergence_deg: float
    polarisation: float


@dataclass(frozen=True)
class Sample:
    """What the instrument usually holds, for absolute counts.

    Attributes
    ----------
    thickness_mm
        Crystal thickness along the beam.
    mosaic_deg
        Full width at half maximum of the mosaic.
    air_path_mm
        Air between sample and detector.
    """

    thickness_mm: float = 1.0
    mosaic_deg: float = 0.1
    air_path_mm: float = 0.0


@dataclass(frozen=True, eq=False)
class Instrument:
    """Everything that a program must know of a diffractometer.

    Attributes
    ----------
    name, title
        Short name, and a line for people.
    beam, detectors, goniometer, sample
        The parts; the first detector is the one that is exposed where only one is asked for.
    exposure_s
        A usual exposure.
    source
        Where the figures were taken from.
    forbidden
        Combinations of axis positions that must neither be taken nor passed.
    """

    name: str
    title: str
    beam: Beam
    detectors: tuple[Detector, ...]
    goniometer: Goniometer
    sample: Sample
    exposure_s: float
    source: str
    forbidden: tuple[Forbidden, ...] = ()

    @property
    def detector(self) -> Detector:
        """The first detector."""
        return self.detectors[0]

    def with_detector(self, detector: Detector) -> Instrument:
        """The same instrument with another first detector (refined, binned)."""
        return replace(self, detectors=(detector, *self.detectors[1:]))


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Vector = tuple[float, float, float]


class _Region(_Model):
    shape: Literal["circle", "rectangle"]
    centre_px: tuple[float, float]
    size_px: tuple[Positive, Positive]


class _Sensor(_Model):
    gain_adu: Positive = 1.0
    offset_adu: float = 0.0
    saturation_adu: Positive = 65535.0
    bit_depth: Annotated[int, Field(ge=1, le=32)] = 16
    readout_noise_adu: NotNegative = 0.0
    dark_per_s: NotNegative = 0.0
    readout_s: NotNegative = 1.0
    hot_fraction: Share = 0.0
    dead_fraction: Share = 0.0
    zingers_per_s: NotNegative = 0.0
    point_spread_px: Positive = 1.0
    material: str = ""
    thickness_mm: NotNegative = 0.0


class _Background(_Model):
    flat_per_s_mm2: NotNegative = 0.0
    dome_per_s_mm2: NotNegative = 0.0
    dome_width_mm: Positive = 30.0
    centre_px: tuple[float, float] | None = None


class _Detector(_Model):
    name: str = "detector"
    kind: Literal["flat", "cylinder"]
    shape: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]]
    pixel_mm: tuple[Positive, Positive]
    distance_mm: Positive
    centre_px: tuple[float, float]
    normal: Vector
    col_direction: Vector
    row_direction: Vector
    blind: tuple[_Region, ...] = ()
    sensor: _Sensor = _Sensor()
    background: _Background = _Background()

    @model_validator(mode="after")
    def _square(self) -> _Detector:
        r = self._rotation()
        if not np.allclose(r.T @ r, np.eye(3), atol=1e-6):
            raise ValueError("col_direction, row_direction and normal must be at right angles to each other")
        return self

    def _rotation(self) -> FloatArray:
        columns = [np.asarray(v, float) for v in (self.col_direction, self.row_direction, self.normal)]
        lengths = [float(np.linalg.norm(v)) for v in columns]
        if min(lengths) == 0.0:
            raise ValueError("col_direction, row_direction and normal must not be (0, 0, 0)")
        return np.stack([v / n for v, n in zip(columns, lengths, strict=True)], axis=1)

    def build(self) -> Detector:
        return Detector(
            name=self.name,
            kind=self.kind,
            shape=self.shape,
            pixel_mm=self.pixel_mm,
            distance_mm=self.distance_mm,
            centre_px=self.centre_px,
            rotation=self._rotation(),
            blind=tuple(Region(**b.model_dump()) for b in self.blind),
            sensor=Sensor(**self.sensor.model_dump()),
            background=Background(**self.background.model_dump()),
        )


class _Axis(_Model):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    kind: Literal["rotation", "translation"] = "rotation"
    direction: Vector
    limits: tuple[float, float]
    speed: Positive
    settle_s: NotNegative = 0.5
    resolution: Positive = 0.001
    backlash: NotNegative = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> _Axis:
        if self.limits[0] >= self.limits[1]:
            raise ValueError(f"limits must be (low, high) with low < high, not {self.limits}")
        if np.linalg.norm(self.direction) == 0.0:
            raise ValueError("direction must not be (0, 0, 0)")
        return self


class _Forbidden(_Model):
    axes: Annotated[dict[str, tuple[float, float]], Field(min_length=1)]
    why: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _ordered(self) -> _Forbidden:
        for name, (low, high) in self.axes.items():
            if low > high:
                raise ValueError(f"axes.{name} must be (low, high) with low <= high, not {(low, high)}")
        return self


class _Beam(_Model):
    radiation: Literal["xray", "neutron"]
    spectrum: dict[str, Any]
    size_mm: tuple[Positive, Positive]
    divergence_deg: NotNegative = 0.0
    polarisation: Annotated[float, Field(ge=-1, le=1)] = 0.0


class _Sample(_Model):
    thickness_mm: Positive = 1.0
    mosaic_deg: NotNegative = 0.1
    air_path_mm: NotNegative = 0.0


class _Common(_Model):
    name: str
    title: str
    beam: _Beam
    detectors: Annotated[tuple[_Detector, ...], Field(min_length=1)]
    sample: _Sample = _Sample()
    exposure_s: Positive
    source: str = ""
    forbidden: tuple[_Forbidden, ...] = ()


class _Instrument(_Common):
    goniometer: Annotated[tuple[_Axis, ...], Field(min_length=1)]

    def stage(self) -> Goniometer:
        return Goniometer(tuple(Axis(**a.model_dump()) for a in self.goniometer))


class _ArmInstrument(_Common):
    goniometer: ArmStage

    def stage(self) -> Goniometer:
        return self.goniometer.build()


def instrument_names() -> tuple[str, ...]:
    """Names of the instruments that are shipped."""
    folder = resources.files("lauepilot.simulator") / "instruments"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml")))


def load_instrument(name_or_path: str | Path) -> Instrument:
    """An instrument by its shipped name (``lab``, ``bm32``, ...) or from a user's own YAML file.

    Raises
    ------
    InstrumentError
        If there is none of that name (the nearest is named), or the file is wrong (file, key, value, what is allowed).
    """
    text = str(name_or_path)
    path = Path(text)
    if text in instrument_names():
        content = (resources.files("lauepilot.simulator") / "instruments" / f"{text}.yaml").read_text("utf-8")
        return parse_instrument(content, f"{text}.yaml")
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise InstrumentError(f"No instrument file {text!r}. Give the path of a YAML file that exists.")
        try:
            return parse_instrument(path.read_text("utf-8"), text)
        except UnicodeDecodeError as error:
            raise InstrumentError(
                f"{text} is not a text file ({error.reason}); an instrument is YAML."
            ) from None
    near = difflib.get_close_matches(text, instrument_names(), n=1, cutoff=0.3)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise InstrumentError(
        f"No instrument {text!r}. {hint}Shipped: {', '.join(instrument_names())}; or give the path of your own YAML file."
    )


def parse_instrument(text: str, origin: str = "<text>") -> Instrument:
    """An instrument from the text of a YAML file; ``origin`` names it in messages.

    Raises
    ------
    InstrumentError
        Names file, key, value and what is allowed.
    """
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InstrumentError(f"{origin} is not YAML: {error}") from None
    if not isinstance(raw, Mapping):
        raise InstrumentError(
            f"{origin} must hold keys such as name, beam, detectors; it holds {type(raw).__name__}."
        )
    kind = _ArmInstrument if isinstance(raw.get("goniometer"), Mapping) else _Instrument
    wrong: list[str] = _spectrum_lines(raw)
    model: _Instrument | _ArmInstrument | None = None
    try:
        model = kind.model_validate(raw)
    except ValidationError as error:
        wrong = _lines(error) + wrong
    if model is None or wrong:
        raise InstrumentError(f"{origin} is not a valid instrument:\n" + "\n".join(wrong))
    try:
        stage = model.stage()
    except ArmError as error:
        raise InstrumentError(f"{origin}: {error}") from None
    names = list(stage.names)
    if len(set(names)) != len(names):
        raise InstrumentError(f"{origin}: goniometer: axis names must differ; got {', '.join(names)}.")
    for zone in model.forbidden:
        if unknown := sorted(set(zone.axes) - set(names)):
            raise InstrumentError(
                f"{origin}: forbidden: there is no axis {unknown[0]!r}; the goniometer has {', '.join(names)}."
            )
    return Instrument(
        name=model.name,
        title=model.title,
        beam=Beam(**model.beam.model_dump()),
        detectors=tuple(d.build() for d in model.detectors),
        goniometer=stage,
        sample=Sample(**model.sample.model_dump()),
        exposure_s=model.exposure_s,
        source=model.source,
        forbidden=tuple(Forbidden(**zone.model_dump()) for zone in model.forbidden),
    )


def _lines(error: ValidationError) -> list[str]:
    """Key, what is allowed and what came, a line each."""
    items = error.errors()
    lines = []
    for item in items:
        place = item["loc"]
        inside = any(o["loc"][: len(place)] == place and len(o["loc"]) > len(place) for o in items)
        if item["type"] == "too_short" and inside:
            continue  # pydantic counts the good members only: too few of them is no fault of its own
        key = ".".join(str(part) for part in place) or "(file)"
        lines.append(_line(key, item["msg"], "nothing" if item["type"] == "missing" else repr(item["input"])))
    return lines


def _spectrum_lines(raw: Mapping[str, Any]) -> list[str]:
    """The same for the arguments of the beam's spectrum, where there are any."""
    beam = raw.get("beam")
    spectrum = beam.get("spectrum") if isinstance(beam, Mapping) else None
    if not isinstance(spectrum, Mapping):
        return []  # the model says so
    return [_line(f"beam.spectrum.{key}", text, came) for key, text, came in spectrum_problems(spectrum)]


def _line(key: str, allowed: str, came: str) -> str:
    return f"  {key}: {allowed}; got {came[:120]}"
