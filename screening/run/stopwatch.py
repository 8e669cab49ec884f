"""Seconds that a shard spends in each stage, measured where the work is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

STAGES = ("fetch", "decode", "filter", "score", "explain", "write")
"""Bytes from storage (waiting included), recordings from bytes, network's input from recordings, logits, importances, file."""


class Stopwatch:
    """Adds up the seconds of stages; one that begins within another stops the other's time for as long as it lasts."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's time to a stage of `STAGES`. Not to be held over a generator's ``yield``."""
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def _switch(self) -> None:
        now = perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
