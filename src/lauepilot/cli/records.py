"""``lauepilot records``: list runs, show one, export it as NeXus or into Tiled; and ``lauepilot align --resume``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from lauepilot.cli.output import UserError, print_json
from lauepilot.cli.tables import console
from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.records.dataset import names
from lauepilot.hardware.records.documents import (
    RunRecord,
    find_run,
    read_record,
    replay,
    run_folders,
)
from lauepilot.hardware.records.nexus import export_nexus
from lauepilot.hardware.records.tiled import (
    catalogue,
    forget_unfinished,
    is_catalogue,
    read_all_tiled,
    read_tiled,
    tiled_writer,
)


def run_records_list(*, where: str, as_json: bool) -> None:
    """All runs in a folder of ours, or in Tiled (``where`` a catalogue's folder or a URL), oldest first."""
    rows = sorted(_summaries(where), key=lambda row: str(row["began"]))
    if as_json:
        print_json({"where": where, "runs": rows})
        return
    screen = console()
    if not rows:
        screen.print(f"No runs in {where}.", markup=False)
        return
    table = Table(title=f"Runs in {where}", title_justify="left")
    for head in ("uid", "began", "plan", "crystal", "exposures", "ended", "reason"):
        table.add_column(head, justify="right" if head == "exposures" else "left")
    for row in rows:
        table.add_row(
            *(str(row[key]) for key in ("uid8", "began", "plan", "crystal", "exposures", "ended", "reason"))
        )
    screen.print(table)


def run_records_show(*, where: str, uid: str | None, as_json: bool) -> None:
    """How one run began, what was decided and how it ended; the newest without ``uid``."""
    record = _record(where, uid, images=False)
    found = _summary(record) | {"versions": record.start.get("versions", {}), "steps": _steps(record)}
    if as_json:
        print_json(found)
        return
    screen = console()
    for key in ("uid", "began", "plan", "crystal", "exposures", "ended", "reason", "resumed_from"):
        screen.print(f"{key:>13}  {found[key]}", markup=False, soft_wrap=True)
    for step in found["steps"]:
        screen.print(
            f"{step['step']:>4}  {step['decision']:<8} {step['reason']}", markup=False, soft_wrap=True
        )


def run_records_export(
    *, where: str, uid: str | None, nexus: Path | None, tiled: str | None, as_json: bool
) -> None:
    """Write a run into a NeXus file, or into a Tiled catalogue (folder or URL), or both."""
    if nexus is None and tiled is None:
        raise UserError("Say what to export to: --nexus FILE.nxs, or --tiled FOLDER_OR_URL.")
    done: dict[str, Any] = {}
    if nexus is not None:
        record = _record(where, uid)
        done = {"uid": record.uid, "nexus": str(export_nexus(record, nexus))}
    if tiled is not None:
        if is_catalogue(where):
            raise UserError(f"{where} is in Tiled already; --tiled takes runs out of a local folder.")
        with catalogue(tiled, create=True) as client:
            folder = find_run(where, uid)
            # One that was cut short there, as when the server went away meanwhile, is written anew.
            if not forget_unfinished(client, read_record(folder).uid):
                raise UserError(f"{tiled} has the run {read_record(folder).uid} already.")
            done |= {"uid": replay(folder, tiled_writer(client)), "tiled": tiled}
    if as_json:
        print_json(done)
    else:
        console().print(
            f"Run {done['uid']} written to {done.get('nexus', '')} {done.get('tiled', '')}".rstrip(),
            markup=False, soft_wrap=True,
        )  # fmt: skip


def resumable(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The run's folder and its start document, of what ``lauepilot align --resume`` is given.

    Raises
    ------
    RecordError
        If no run is in it.
    UserError
        If it was not begun by ``lauepilot align`` on a simulated instrument.
    """
    path = find_run(folder)
    start = read_record(path).start
    if "typed" not in start:
        raise UserError(
            f"The run in {path} was not begun by lauepilot align on a simulated instrument: go on with it from Python, by "
            "lauepilot.hardware.resume.resume_run."
        )
    return path, start


def _record(where: str, uid: str | None, *, images: bool = True) -> RunRecord:
    if is_catalogue(where):
        return read_tiled(where, uid, images=images)
    return read_record(find_run(where, uid))


def _summaries(where: str) -> list[dict[str, Any]]:
    if not is_catalogue(where):
        if not Path(where).is_dir():
            raise UserError(
                f"There is no folder {where}. Runs of lauepilot align are in lauepilot-runs/ by default."
            )
        return [_readable(folder) for folder in run_folders(Path(where))]
    return [_summary(record) for record in read_all_tiled(where)]


def _readable(folder: Path) -> dict[str, Any]:
    """One line of the list; a record that cannot be read, as of a run that was killed before it began, hides no other."""
    try:
        return _summary(read_record(folder))
    except RecordError as error:
        return {
            "uid": None, "uid8": "", "folder": str(folder), "began": "", "plan": "", "crystal": None, "exposures": 0,
            "ended": "unreadable", "reason": str(error), "resumed_from": None,
        }  # fmt: skip


def _summary(record: RunRecord) -> dict[str, Any]:
    primary = record.streams.get("primary")
    began = datetime.fromtimestamp(float(record.start["time"])).astimezone()
    return {
        "uid": record.uid,
        "uid8": record.uid[:8],
        "folder": None if record.folder is None else str(record.folder),
        "began": began.isoformat(timespec="seconds"),
        "plan": record.start.get("plan_name", ""),
        "crystal": record.start.get("crystal", {}).get("name"),
        "exposures": 0 if primary is None else len(primary.seq_num),
        "ended": record.stop.get("exit_status", "unfinished"),
        "reason": record.stop.get("reason", ""),
        "resumed_from": record.start.get("resumed_from", {}).get("uid"),
    }


def _steps(record: RunRecord) -> list[dict[str, Any]]:
    stream = record.streams.get("decisions")
    if stream is None:
        return []
    key = {name: key for (owner, key), name in names(record).items() if owner == "decisions"}
    return [
        {name: stream.columns[key[name]][row] for name in ("step", "decision", "reason", "verdict")}
        | {
            "clock_s": stream.columns[key["elapsed_s"]][row],
            "agent": json.loads(stream.columns[key["checkpoint"]][row]),
        }
        for row in range(len(stream.seq_num))
    ]
