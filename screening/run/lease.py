"""The exclusive right to write a folder, of a run, a pack or nights; it compares no clocks.

Epochs are numbered and created exclusively; the owner writes a counter, and a watcher who sees it stand still for `EXPIRY_S`
on its own clock takes the next epoch. Epochs only ever rise, so that one number is never two owners'; where somebody removed
the folder and with it the count, the owner's token tells them apart.

Whoever was frozen may wake after another has taken over, has erased a patient and is done. So what is written under a lease is
written through `Lease.folder`, which looks in the store before each write and each removal whether the lease is still held.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from screening.errors import UserError
from screening.storage import Folder

BEAT_S = 2.0
EXPIRY_S = 30.0
BEATS_UNDER_WAY = 6
"""A beat is waited for as long as so many fit into the expiry: one that a store does not answer must not cost the lease."""
KEPT_EPOCHS = 16
"""Epochs that stay: folders as of a pack or of nights are leased for years."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    host: str
    pid: int
    token: str
    machine: str = ""  # within which the process number means something


@dataclass(frozen=True)
class Held(Folder):
    """A folder as the owner of a lease writes it: nothing is written or removed once the lease is another's. Picklable.

    Folders inside it, as `folder` gives them, are folders like any other.
    """

    epoch: int = 0
    token: str = field(default="", repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "epoch": self.epoch, "token": self.token}

    def is_held(self) -> bool:
        """Whether the lease is still held, as the store says now; StorageError where it does not answer."""
        if _epochs(self)[-1:] != [self.epoch]:
            return False
        try:
            found = json.loads(self.read(_name(self.epoch)))["token"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False
        return bool(found == self.token)

    def before_writing(self) -> None:
        """Raise UserError where somebody else has taken over."""
        if not self.is_held():
            raise UserError(f"{self.url} was taken over by another runner; nothing is lost, and that one goes on")


class HeldByAnother(UserError):
    """Another runner holds a lease, and is alive."""


class Lease:
    """Exclusive right to write a folder, of a run or a pack, held while the block runs.

    Parameters
    ----------
    doing
        What a holder does with the folder: it is being ``run`` by another.

    Raises
    ------
    HeldByAnother
        A `UserError`: another runner holds it and is alive.
    """

    def __init__(
        self,
        run: Folder,
        *,
        expiry_s: float = EXPIRY_S,
        beat_s: float = BEAT_S,
        on_wait: Callable[[Holder], None] | None = None,
        doing: str = "run",
    ) -> None:
        self._doing = doing
        self._run, self._expiry_s, self._beat_s, self._on_wait = run, expiry_s, beat_s, on_wait
        self._me = Holder(socket.gethostname(), os.getpid(), os.urandom(8).hex(), _machine())
        self._stop = threading.Event()
        self.lost = threading.Event()
        """Set, within a beat or so, when a later epoch was taken by somebody else."""

    def __enter__(self) -> Lease:
        while True:
            epochs = _epochs(self._run)
            if epochs and not self._released(epochs[-1]):
                self._watch(epochs[-1])
            self._epoch = (epochs[-1] if epochs else 0) + 1
            if self._run.create(_name(self._epoch), json.dumps(asdict(self._me)).encode()):
                if _epochs(self._run)[-1] == self._epoch:
                    break
                self._run.remove(_name(self._epoch))  # slept so long that this number had been removed
        self.folder = Held(self._run.url, self._run.storage_options, self._epoch, self._me.token)
        """The leased folder, to be written through."""
        for old in _epochs(self._run)[:-KEPT_EPOCHS]:
            for suffix in (".json", ".beat", ".released"):
                self._run.remove(_name(old, suffix))
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            if self.folder.is_held():
                self._run.write(_name(self._epoch, ".released"), b"")

    def require(self) -> None:
        """Raise UserError where somebody else has taken over, as the store says now."""
        self.folder.before_writing()

    def holder(self) -> Holder | None:
        """Return who holds the lease now, None where nobody does; looks for three beats where that cannot be known at once."""
        epochs = _epochs(self._run)
        if not epochs or self._released(epochs[-1]):
            return None
        holder = self._holder(epochs[-1])
        if holder is None or self._died(holder):
            return None
        before, patience = self._beat_of(epochs[-1]), time.monotonic() + 3 * self._beat_s
        while time.monotonic() < patience and self._beat_of(epochs[-1]) == before:
            time.sleep(self._beat_s / 10)
        return None if self._beat_of(epochs[-1]) == before or self._released(epochs[-1]) else holder

    def _died(self, holder: Holder) -> bool:
        """Whether the process of a holder is known to have ended."""
        return (holder.host, holder.machine) == (self._me.host, self._me.machine) and not _alive(holder.pid)

    def _beat(self) -> None:
        count = 0
        under_way: list[threading.Thread] = []
        while not self._stop.is_set() and not self.lost.is_set():
            under_way = [beat for beat in under_way if beat.is_alive()]
            if len(under_way) < BEATS_UNDER_WAY:
                under_way.append(threading.Thread(target=self._beat_once, args=(count,), daemon=True, name="beat"))
                under_way[-1].start()
                under_way[-1].join(self._expiry_s / BEATS_UNDER_WAY)
                count += 1
            self._stop.wait(self._beat_s)

    def _beat_once(self, count: int) -> None:
        with suppress(OSError):  # the next makes it good
            self._run.write(_name(self._epoch, ".beat"), str(count).encode())
            if _epochs(self._run)[-1:] != [self._epoch]:
                self.lost.set()

    def _watch(self, epoch: int) -> None:
        """Return when the holder of ``epoch`` is dead or done; raise when it is alive."""
        holder = self._holder(epoch)
        if holder and self._died(holder):
            return
        if holder and self._on_wait:
            self._on_wait(holder)
        before, patience = self._beat_of(epoch), time.monotonic() + self._expiry_s
        while time.monotonic() < patience:
            if self._released(epoch) or epoch not in _epochs(self._run):
                return
            if self._beat_of(epoch) != before:
                who = f"process {holder.pid} on {holder.host}" if holder else "another process"
                raise HeldByAnother(
                    f"{self._run.url} is being {self._doing} by {who}; wait for it to end, or end it, and start again"
                )
            time.sleep(min(0.2, self._expiry_s / 5))

    def _holder(self, epoch: int) -> Holder | None:
        with suppress(OSError, ValueError, TypeError):
            return Holder(**json.loads(self._run.read(_name(epoch))))
        return None

    def _beat_of(self, epoch: int) -> bytes | None:
        with suppress(OSError):
            return self._run.read(_name(epoch, ".beat"))
        return None

    def _released(self, epoch: int) -> bool:
        return self._run.exists(_name(epoch, ".released"))


def _name(epoch: int, suffix: str = ".json") -> str:
    return f"lease/epoch-{epoch:06d}{suffix}"


def _epochs(folder: Folder) -> list[int]:
    return sorted(int(name[6:12]) for name in folder.names("lease") if name.endswith(".json"))


def _machine() -> str:
    """Return what this boot of the kernel and this process namespace are called: containers share names of hosts."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
