"""Records in Tiled: an embedded catalogue in a folder (no server process), or a server by its URL.

The embedded one is SQLite with Zarr files, opened in this process. A server's key is read from ``TILED_API_KEY`` by
Tiled's own client: it never stands on a command line or in a URL, where others could read it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lauepilot.hardware.errors import RecordError
from lauepilot.hardware.records.documents import RunRecord, Stream

_DATABASE = "catalogue.db"


def is_catalogue(where: str | Path) -> bool:
    """Whether this is a Tiled server's URL or the folder of an embedded catalogue, not a folder of runs."""
    return _is_url(where) or (Path(where) / _DATABASE).is_file()


def _is_url(where: str | Path) -> bool:
    return isinstance(where, str) and where.startswith(("http://", "https://"))


@contextmanager
def catalogue(where: str | Path, *, create: bool = False) -> Iterator[Any]:
    """A Tiled client of a server or of an embedded catalogue, for one block of code.

    Parameters
    ----------
    where
        URL, or folder.
    create
        Whether a folder without a catalogue becomes one.

    Raises
    ------
    RecordError
        If Tiled is not installed, the server is not there, or there is no catalogue.
    """
    try:
        import tiled.client
    except ImportError as error:
        raise RecordError("Records in Tiled need it installed: pip install 'lauepilot[data]'.") from error
    if _is_url(where):
        client = _server(str(where), tiled.client.from_uri)
        try:
            yield client
        finally:
            client.context.http_client.close()
        return
    folder = Path(where)
    if not create and not is_catalogue(folder):
        raise RecordError(
            f"{folder} is no Tiled catalogue. Give the folder that --tiled wrote to, or a server's URL."
        )
    with _embedded(folder.resolve()) as client:
        yield client


def _server(url: str, connect: Any) -> Any:
    if "api_key" in url or "@" in url:
        raise RecordError(
            "A Tiled URL must not hold a key or password: anyone can read it in the list of processes. Put the key into the "
            "environment as TILED_API_KEY."
        )
    try:
        return connect(url, api_key=os.environ.get("TILED_API_KEY"))
    except Exception as error:  # the client's own and its HTTP library's
        raise RecordError(
            f"No Tiled server answers at {url}: {type(error).__name__}: {error}. Check the address and TILED_API_KEY."
        ) from error


@contextmanager
def _embedded(folder: Path) -> Iterator[Any]:
    from tiled.catalog import from_uri
    from tiled.client import from_context
    from tiled.client.context import Context
    from tiled.server.app import build_app

    logging.getLogger("tiled.server.app").setLevel(logging.WARNING)  # it tells its version on each start
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(
            f"A Tiled catalogue cannot be made in {folder}: {error.strerror}. Choose another folder."
        ) from error
    tree = from_uri(
        f"sqlite:///{folder / _DATABASE}",
        writable_storage=[str(folder / "data"), f"sqlite:///{folder / 'tables.db'}"],
        init_if_not_exists=not is_catalogue(folder),  # looking is dear: it starts another process
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the HTTP client that Tiled brings along
        context = Context.from_app(build_app(tree))
    with context:
        yield from_context(context)


def tiled_writer(client: Any) -> Any:
    """A consumer of documents that writes each event at once, images and matrices as arrays of their true shape.

    It is bluesky-tiled-plugins' `TiledWriter` with settings that our documents need: by default it keeps events in memory
    until the run ends, and small matrices make its tables fail.
    """
    try:
        from bluesky_tiled_plugins import TiledWriter
    except ImportError as error:
        raise RecordError(
            "Records in Tiled need bluesky-tiled-plugins: pip install 'lauepilot[data]'."
        ) from error
    return TiledWriter(client, batch_size=1, max_array_size=0)


def read_tiled(where: str | Path, uid: str | None, *, images: bool = True) -> RunRecord:
    """A run out of Tiled, as `lauepilot.hardware.records.documents.read_record` gives it from a folder.

    Raises
    ------
    RecordError
        If there is no such run.
    """
    with catalogue(where) as client:
        return _record(_find(client, uid, where), images)


def read_all_tiled(where: str | Path) -> list[RunRecord]:
    """All runs of a catalogue, without their images."""
    with catalogue(where) as client:
        return [_record(client[uid], False) for uid in client]


def forget_unfinished(client: Any, uid: str) -> bool:
    """Remove a run that never got its end, as when Tiled failed meanwhile; whether nothing of it is there any more."""
    if uid in client and not client[uid].metadata.get("stop"):
        client[uid].delete(recursive=True, external_only=False)
    return uid not in client


def _record(node: Any, images: bool) -> RunRecord:
    metadata = dict(node.metadata)
    streams = {name: _stream(name, node.base[name], images) for name in node.base}
    return RunRecord(dict(metadata["start"]), dict(metadata.get("stop") or {}), streams)


def _find(client: Any, uid: str | None, where: str | Path) -> Any:
    if uid is not None and uid in client:
        return client[uid]
    found = [key for key in client if uid is None or key.startswith(uid)]
    if not found:
        wanted = "run" if uid is None else f"run whose uid begins with {uid!r}"
        raise RecordError(f"No {wanted} in {where}. `lauepilot records list` shows what there is.")
    if uid is not None and len(found) > 1:
        raise RecordError(f"{len(found)} runs in {where} begin with {uid!r}. Type more of it.")
    return max(
        (client[key] for key in found),
        key=lambda node: float(node.metadata.get("start", {}).get("time", 0.0)),
    )


def _stream(name: str, node: Any, images: bool) -> Stream:
    base = getattr(node, "base", node)
    data_keys = {key: dict(value) for key, value in node.metadata["data_keys"].items()}
    columns: dict[str, Any] = {}
    for part in base:
        child = base[part]
        if part.startswith("internal") and not hasattr(child, "dtype"):
            table = child.read()
            columns |= {str(key): table[key].to_numpy() for key in table}
        elif images or part not in data_keys or len(child.shape) != 3 or child.dtype.kind not in "ui":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the array library, on chunks
                columns[part] = child.read()
    # Events that were taken again after a pause are there twice: the last one counts.
    numbers = np.asarray(columns.get("seq_num", []), dtype=int)
    last = {int(number): row for row, number in enumerate(numbers)}
    rows = [last[number] for number in sorted(last)]
    return Stream(
        name,
        data_keys,
        sorted(last),
        [float(columns["time"][row]) for row in rows],
        {key: [columns[key][row] for row in rows] for key in data_keys if key in columns},
    )
