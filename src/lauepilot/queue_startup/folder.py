"""The startup folder of a queue server: one file to load and to edit, and who may do what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STARTUP = "startup.py"
PERMISSIONS = "user_group_permissions.yaml"

_STARTUP_TEXT = '''"""Loaded by bluesky-queueserver each time its environment is opened. Edit what stands here."""

from lauepilot.queue_startup.profile import start

globals().update(
    start(
{arguments}
    )
)
'''

# No functions. (Scripts can be uploaded all the same, whatever stands here: hence the addresses of this machine alone.)
_PERMISSIONS_TEXT = """\
user_groups:
  root:
    allowed_plans: [null]
    forbidden_plans: [":^_"]
    allowed_devices: [null]
    forbidden_devices: [":^_:?.*"]
    allowed_functions: []
    forbidden_functions: [":.*"]
  primary:
    allowed_plans: [":.*"]
    forbidden_plans: [":^_"]
    allowed_devices: [":?.*:depth=3"]
    forbidden_devices: [":^_:?.*"]
    allowed_functions: []
    forbidden_functions: [":.*"]
"""


def write_folder(folder: Path, settings: dict[str, Any]) -> bool:
    """Make the startup folder, where there is none.

    Parameters
    ----------
    folder
        Where.
    settings
        Arguments of `lauepilot.queue_startup.profile.start`: text, numbers, truth values, None.

    Returns
    -------
    Whether a startup file was written; one that is there is left as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    permissions = folder / PERMISSIONS
    if not permissions.exists():
        permissions.write_text(_PERMISSIONS_TEXT, encoding="utf-8")
    startup = folder / STARTUP
    if startup.exists():
        return False
    # repr of plain values is a literal: no text of the user's becomes code.
    arguments = "\n".join(f"        {name}={value!r}," for name, value in settings.items())
    startup.write_text(_STARTUP_TEXT.format(arguments=arguments), encoding="utf-8")
    return True


def server_arguments(
    folder: Path, *, control: str = "tcp://127.0.0.1:60615", info: str = "tcp://127.0.0.1:60625"
) -> list[str]:
    """The command that starts the queue server on the folder, reachable from this machine alone.

    bluesky-queueserver listens on all interfaces if nothing else is said.
    """
    place = str(folder)
    return [
        "start-re-manager", "--startup-dir", place, "--existing-plans-devices", place,
        "--user-group-permissions", place, "--zmq-control-addr", control, "--zmq-info-addr", info,
        "--redis-addr", "127.0.0.1",
    ]  # fmt: skip
