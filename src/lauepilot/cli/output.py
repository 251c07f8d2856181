"""What goes to the terminal and to disk: one JSON object, one line for an error, whole folders or none.

Exit codes: 0 done, 1 something unexpected, 2 wrong input, 3 gave up, 4 "I do not know", 5 the instrument refused or failed,
130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, ParamSpec

import typer

P = ParamSpec("P")

#: A list of numbers that json.dumps has spread over lines.
_ROW = re.compile(r"\[\n\s*((?:-?[\d.][\d.eE+-]*|null)(?:,\n\s*(?:-?[\d.][\d.eE+-]*|null))*)\n\s*\]")

#: Set to anything to see where an error came from.
DEBUG_VARIABLE = "LAUEPILOT_DEBUG"


class Exit(IntEnum):
    """Exit codes of all commands."""

    DONE = 0
    UNEXPECTED = 1
    INPUT = 2
    GAVE_UP = 3
    UNKNOWN = 4
    INSTRUMENT = 5
    INTERRUPTED = 130


EXIT_HELP = (
    "Exit codes: 0 done; 1 something unexpected; 2 wrong input; 3 gave up (out of reach, or the frames do not hold the "
    "answer); 4 'I do not know' (index: confidence below 0.95); 5 the instrument refused or failed; 130 interrupted."
)


class UserError(ValueError):
    """Something that the user can put right."""


class NotKnown(UserError):
    """A frame that was read and does not hold the answer, so that nothing can be written."""


def guarded(command: Callable[P, int | None]) -> Callable[P, None]:
    """Turn a command's errors into one clear line and an exit code, and its return value into the exit code.

    With ``json_output=True`` among the arguments the line is ``{"error": ...}`` on standard output.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("json_output", False))
        try:
            code = command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:  # the reader of our output has left, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(Exit.DONE) from None
        except KeyboardInterrupt:
            _complain("Interrupted.", as_json)
            raise typer.Exit(Exit.INTERRUPTED) from None
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                traceback.print_exc()
            _complain(" ".join([_in_words(error), *getattr(error, "__notes__", ())]), as_json)
            raise typer.Exit(_code_of(error)) from None
        raise typer.Exit(int(code or 0))

    return run


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, ValueError | FileNotFoundError) or _is_hardware(error):
        return text
    return f"Something unexpected: {type(error).__name__}: {text}. Set {DEBUG_VARIABLE}=1 to see where."


def _code_of(error: Exception) -> Exit:
    if _is_hardware(error):
        return Exit.INSTRUMENT
    if isinstance(error, NotKnown):
        return Exit.UNKNOWN
    return Exit.INPUT if isinstance(error, ValueError | OSError) else Exit.UNEXPECTED


def _is_hardware(error: Exception) -> bool:
    """Whether it is of `lauepilot.hardware`, which is asked only if it was loaded."""
    module = sys.modules.get("lauepilot.hardware.errors")
    return module is not None and isinstance(error, module.HardwareError | module.InterlockError)


def _complain(text: str, as_json: bool) -> None:
    line = " ".join(text.split())
    if as_json:
        print_json({"error": line})
    else:
        typer.echo(f"lauepilot: {line}", err=True)


def print_json(value: Mapping[str, Any]) -> None:
    """One object on standard output."""
    typer.echo(json.dumps(plain(value), allow_nan=False))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file for people: indented, but rows of numbers on one line."""
    text = json.dumps(plain(value), indent=2, allow_nan=False)
    path.write_text(_ROW.sub(lambda row: "[" + " ".join(row[1].split()) + "]", text) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Dataclasses, arrays, tuples, paths and mappings as plain JSON values; numbers that are not finite as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return plain(value.tolist())
    return str(value)


RUNS = Path("lauepilot-runs")


def run_folder(out: Path | None, label: str) -> Path:
    """Where a command leaves its files: ``out``, or ``lauepilot-runs/<time>-<label>``.

    Raises
    ------
    UserError
        If ``out`` is there and holds something: nothing is overwritten.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(
                f"{out} exists and is not an empty folder. Name another one with --out; nothing is overwritten."
            )
        return out
    moment = datetime.now().astimezone().strftime("%Y%m%dT%H%M%S")
    for n in range(100):
        folder = RUNS / (f"{moment}-{label}" + (f"-{n + 1}" if n else ""))
        if not folder.exists():
            return folder
    raise UserError(f"A hundred folders {RUNS}/{moment}-{label}-* exist. Name one with --out.")


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A hidden folder beside ``final`` to write into; it gets its name when the block ends well, else it is removed."""
    final.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{final.name}-", suffix=".part", dir=final.parent))
    part.chmod(0o755)
    try:
        yield part
        if final.is_dir():  # empty: run_folder looked
            final.rmdir()
        part.rename(final)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def whole_file(final: Path) -> Iterator[Path]:
    """A hidden file with the same suffix beside ``final``; it gets its name when the block ends well, else it is removed.

    Raises
    ------
    UserError
        If the folder does not exist.
    """
    if not final.parent.is_dir():
        raise UserError(f"There is no folder {final.parent} to write {final.name} into. Make it first.")
    part = final.with_name(f".{final.stem}-{os.getpid()}.part{final.suffix}")
    try:
        yield part
        os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)
