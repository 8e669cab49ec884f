"""Watching what the work rests on, from a thread: where it is gone, the main thread is interrupted, as by Ctrl-C."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_S = 1.0
_LISTENING = Path("/proc/net/unix")


@contextmanager
def watched(gone: Callable[[], bool], *, looks: int) -> Iterator[threading.Event]:
    """Interrupt the block (KeyboardInterrupt) when ``gone()`` has been true ``looks`` times in a row, a second apart.

    Yields an event that is set in this case. Without effect outside of a process's main thread, which alone hears signals.
    """
    lost, over = threading.Event(), threading.Event()

    def look() -> None:
        seen = 0
        while not over.wait(LOOK_S):
            seen = seen + 1 if gone() else 0
            if seen >= looks:
                lost.set()
                signal.pthread_kill(main, signal.SIGINT)
                return

    main = threading.main_thread().ident or 0
    if threading.current_thread() is not threading.main_thread():
        yield lost
        return
    thread = threading.Thread(target=look, daemon=True, name="watch")
    thread.start()
    try:
        yield lost
    finally:
        over.set()


def is_listening(path: str) -> bool:
    """Whether a process listens on the Unix socket ``path``; True where this system does not tell (only Linux does)."""
    try:
        return path in _LISTENING.read_text(errors="replace")
    except OSError:
        return True


def answers(address: str) -> bool:
    """Whether something takes a connection at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True
