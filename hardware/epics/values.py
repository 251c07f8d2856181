"""Process variables whose puts go to a putter that may refuse them, or hold them until the work is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    from caproto.server import pvproperty
    from caproto.server.server import (
        PvpropertyDouble,
        PvpropertyDoubleRO,
        PvpropertyEnum,
        PvpropertyEnumRO,
        PvpropertyInteger,
        PvpropertyIntegerRO,
        PvpropertyString,
        PvpropertyStringRO,
    )
except ImportError as error:
    raise ImportError("The EPICS twin needs caproto: pip install 'lauepilot[epics]'.") from error


class Refused(ValueError):
    """A put that is not carried out; the client is told why."""


class _Put:
    """A client's put is the putter's business alone.

    What the putter returns is stored; None says that it stored by itself what there was to be stored, at once or in the
    course of its work. A refused put leaves no alarm behind: the process variable is as well as before.
    """

    async def write(self, value: Any, *, verify_value: bool = True, **how: Any) -> None:
        """Store a value; a client's put (``verify_value``) by way of the putter."""
        if verify_value:
            value = self.preprocess_value(value)  # type: ignore[attr-defined]
            strings = getattr(self, "enum_strings", None)
            if strings is not None and not isinstance(value, str):
                if not 0 <= int(value) < len(strings):
                    raise Refused(f"{int(value)} is none of 0 to {len(strings) - 1}: {', '.join(strings)}.")
                value = strings[int(value)]
            elif strings is not None and value not in strings:
                raise Refused(f"{value!r} is none of {', '.join(strings)}.")
            value = await self.putter(self, value)  # type: ignore[attr-defined]
            if value is None:
                return
        await super().write(value, verify_value=False, **how)  # type: ignore[misc]


class Double(_Put, PvpropertyDouble):  # type: ignore[misc]
    """A number."""


class Integer(_Put, PvpropertyInteger):  # type: ignore[misc]
    """A whole number of 32 bits."""


class String(_Put, PvpropertyString):  # type: ignore[misc]
    """Up to 40 characters."""


class Menu(_Put, PvpropertyEnum):  # type: ignore[misc]
    """One of a few words."""


def pv(
    value: Any, menu: tuple[str, ...] = (), *, read_only: bool = False, name: str = "", **more: Any
) -> Any:
    """A process variable that starts as ``value``: a number, a text, or one of the words of ``menu``."""
    if menu:
        kind = PvpropertyEnumRO if read_only else Menu
        more["enum_strings"] = menu
    elif isinstance(value, str):
        kind = PvpropertyStringRO if read_only else String
    elif isinstance(value, int):
        kind = PvpropertyIntegerRO if read_only else Integer
    else:
        kind = PvpropertyDoubleRO if read_only else Double
        more.setdefault("precision", 4)
    naming = {"name": name} if name else {}
    return pvproperty(value=value, dtype=kind, read_only=read_only, **naming, **more)


def pvs(table: Mapping[str, Any], *, read_only: bool = False) -> dict[str, Any]:
    """Process variables by name: each entry is a value, or a value and its menu."""
    return {
        name: pv(*entry, read_only=read_only) if isinstance(entry, tuple) else pv(entry, read_only=read_only)
        for name, entry in table.items()
    }


async def show(channel: Any, value: Any) -> None:
    """Set a process variable from inside, and tell its clients."""
    await channel.write(value, verify_value=False)
