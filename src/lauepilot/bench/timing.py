"""Time on one core, and which machine it was."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numba
import numpy as np
import scipy

Result = TypeVar("Result")

#: How times are taken, for the settings of figures.
CLOCK = "processor time of this process, all its threads added"


@contextmanager
def one_core() -> Iterator[None]:
    """Compiled loops on one thread inside; what was set before comes back."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def timed(work: Callable[..., Result], *arguments: Any, **named: Any) -> tuple[Result, float]:
    """What a call gives, and its processor seconds.

    Threads are added up and what others do on the machine is not, so that it is the wall time of an idle core.
    """
    start = time.process_time()
    result = work(*arguments, **named)
    return result, time.process_time() - start


def machine() -> dict[str, Any]:
    """Processor, cores, system and the versions that set the speed."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
