"""Spectra by name, as instrument files call them, and the check of their arguments without computing anything."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from lauepilot.simulator import spectra

#: What ``beam.spectrum.kind`` may name.
SPECTRA: Mapping[str, Callable[..., spectra.Spectrum]] = {
    "tungsten_tube": spectra.tungsten_tube,
    "bending_magnet": spectra.bending_magnet,
    "maxwellian": spectra.maxwellian,
    "tabulated": spectra.tabulated,
    "csv": spectra.from_csv,
}

#: What a YAML file can hold for an array, or a path.
_AS_WRITTEN: tuple[tuple[Any, Any], ...] = (
    (ArrayLike, list[float]),
    (ArrayLike | None, list[float] | None),
    (str | Path, str),
)


def spectrum_problems(spectrum: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What is wrong with the ``spectrum`` of a beam: the key in it, what is allowed, what came.

    Names and types are compared with the constructor's signature; nothing is computed, so that a number which the
    constructor itself refuses (a voltage outside its model) is not seen here.
    """
    kind = spectrum.get("kind")
    if not isinstance(kind, str) or kind not in SPECTRA:
        came = repr(kind) if "kind" in spectrum else "nothing"
        return [("kind", f"Input should be one of {', '.join(SPECTRA)}", came)]
    # By way of JSON a list stands for a tuple, and yet a number in quotes is no number.
    written = json.dumps({k: v for k, v in spectrum.items() if k != "kind"}, default=str)
    try:
        _arguments(kind).model_validate_json(written)
    except ValidationError as error:
        names = ", ".join(inspect.signature(SPECTRA[kind]).parameters)
        found = []
        for item in error.errors():
            takes = f"; {kind} takes {names}" if len(item["loc"]) == 1 else ""
            text = item["msg"] + (takes if item["type"] in {"extra_forbidden", "missing"} else "")
            came = "nothing" if item["type"] == "missing" else repr(item["input"])
            found.append((".".join(map(str, item["loc"])), text, came))
        return found
    return []


@lru_cache(maxsize=len(SPECTRA))
def _arguments(kind: str) -> type[BaseModel]:
    """A model whose fields are the arguments of a constructor."""
    call = SPECTRA[kind]
    hints = get_type_hints(call)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(call).parameters.items():
        hint = next((ours for theirs, ours in _AS_WRITTEN if hints[name] == theirs), hints[name])
        fields[name] = (hint, ... if parameter.default is inspect.Parameter.empty else parameter.default)
    settings = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
    return create_model(f"_{kind}", __config__=settings, **fields)
