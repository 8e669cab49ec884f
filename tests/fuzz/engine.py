"""Runs mutated inputs through the targets, in processes with limits of time and memory, and says what broke."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.guard import Guard, limit_memory
from tests.fuzz.targets import Target, mutated, targets

HANG_S = 60
PROCESSES = 2


@dataclass
class Tally:
    """What one target did."""

    inputs: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0
    peak_mb: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[str, str]] = field(default_factory=list)  # (what, input as hex)


def fuzz(names: list[str], inputs: int, seed: int, last: str) -> dict[str, Tally]:
    """Run ``inputs`` inputs through the named targets; ``last`` is a file that holds the input at work."""
    chosen = [target for target in targets() if target.name in names]
    total = sum(target.share for target in chosen)
    for target in chosen:  # what is imported late, is imported now
        for data in target.seeds:
            target.run(data)
    Path("/proc/self/clear_refs").write_text("5")  # of the peak, nothing is the parent's (Linux, proc(5))
    limit_memory()
    signal.signal(signal.SIGALRM, _alarm)
    guard = Guard()
    found = {}
    with open(last, "wb", buffering=0) as note:
        for target in chosen:
            draw = np.random.default_rng([seed, *target.name.encode()])
            found[target.name] = _one(target, round(inputs * target.share / total), draw, guard, note)
    return found


def _one(target: Target, inputs: int, draw: np.random.Generator, guard: Guard, note: Any) -> Tally:
    tally = Tally()
    pool = list(target.seeds)
    for _ in range(inputs):
        data = mutated(pool[int(draw.integers(0, len(pool)))], pool[int(draw.integers(0, len(pool)))], draw)
        os.pwrite(note.fileno(), len(data).to_bytes(4, "little") + target.name.encode().ljust(16) + data, 0)
        faulthandler.dump_traceback_later(HANG_S, exit=True) if tally.inputs % 64 == 0 else None
        signal.setitimer(signal.ITIMER_REAL, target.seconds)
        begun = time.perf_counter()
        try:
            with guard:
                outcome = target.run(data)
        except BaseException as error:
            outcome = "BROKEN"
            if isinstance(error, KeyboardInterrupt):
                raise
            tally.broken.append((f"{target.name}: {type(error).__name__}: {str(error)[:300]}", data.hex()))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        took = time.perf_counter() - begun
        tally.inputs += 1
        tally.seconds += took
        tally.slowest_ms = max(tally.slowest_ms, 1e3 * took)
        if outcome not in tally.outcomes and outcome != "BROKEN" and len(pool) < 200:
            pool.append(data)  # what reached something new is worth changing further
        tally.outcomes[outcome] += 1
    faulthandler.cancel_dump_traceback_later()
    tally.peak_mb = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
    return tally


class _TooSlow(BaseException):
    pass


def _alarm(*_: object) -> None:
    raise _TooSlow("more than it may take")


def _together(parts: list[dict[str, Tally]]) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for part in parts:
        for name, tally in part.items():
            sum_ = found.setdefault(name, Tally())
            sum_.inputs += tally.inputs
            sum_.seconds += tally.seconds
            sum_.slowest_ms = max(sum_.slowest_ms, tally.slowest_ms)
            sum_.peak_mb = max(sum_.peak_mb, tally.peak_mb)
            sum_.outcomes += tally.outcomes
            sum_.broken += tally.broken
    return found


def _worker(names: list[str], inputs: int, seed: int, last: str, queue: Any) -> None:
    queue.put(fuzz(names, inputs, seed, last))


def run(names: list[str], inputs: int, seed: int, scratch: Path) -> tuple[dict[str, Tally], list[str]]:
    context = multiprocessing.get_context("spawn")
    queue: Any = context.SimpleQueue()
    lasts = [str(scratch / f"last-{number}") for number in range(PROCESSES)]
    workers = [
        context.Process(target=_worker, args=(names, inputs // PROCESSES, seed + number, lasts[number], queue))
        for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    parts, died = [], []
    waiting = dict(enumerate(workers))
    while waiting:
        time.sleep(0.2)
        while not queue.empty():
            parts.append(queue.get())
        for number, worker in list(waiting.items()):
            if worker.exitcode is not None:
                del waiting[number]
                if worker.exitcode:
                    note = Path(lasts[number]).read_bytes()
                    length, name = int.from_bytes(note[:4], "little"), note[4:20].decode().strip()
                    died.append(f"{name}: the process ended with {worker.exitcode}: {note[20 : 20 + length].hex()}")
    while not queue.empty():
        parts.append(queue.get())
    return _together(parts), died
