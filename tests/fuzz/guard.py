"""What holds around every input, whichever engine made it: nothing is opened, and memory is bounded."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

MEMORY_MB = 2048
"""Beyond what the process has in use when it begins."""
_FORBIDDEN = (
    "open",
    "os.listdir",
    "os.scandir",
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "os.system",
)
_CHILD = "screening.archive.hdf5_child"


def limit_memory() -> None:
    """Let the process have no more than `MEMORY_MB` from here on."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_MB * 2**20,) * 2)


class Guard:
    """Hears what is opened within the block, and raises AssertionError of what a target has no business with.

    At once, and again at the end of the block: a target that catches everything would not tell.
    """

    def __init__(self) -> None:
        self._on = False
        self._heard: list[str] = []
        sys.addaudithook(self._hear)

    def __enter__(self) -> None:
        self._heard.clear()
        self._on = True

    def __exit__(self, *_: object) -> None:
        self._on = False
        if self._heard:
            raise AssertionError("; ".join(self._heard[:3]))

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on or event not in _FORBIDDEN or _is_allowed(event, arguments):
            return
        self._heard.append(f"{event} {arguments[0]!r}")
        raise AssertionError(self._heard[-1])


def _is_allowed(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "subprocess.Popen":
        return _CHILD in arguments[1]
    # Rare storage formats are decoded by wfdb, which reads files only: in a folder of their own.
    path = str(arguments[0])
    if isinstance(arguments[0], int) or "/screening-" in path:
        return True
    return event == "open" and (path.endswith((".py", ".pyc", "settings.yaml")) or path == "/dev/null")
