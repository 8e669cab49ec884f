"""The exclusive right to write a folder, of a run, a pack or nights; it compares no clocks.

Epochs are numbered and created exclusively; the owner writes a counter, and a watcher who sees it stand still for `EXPIRY_S`
on its own clock takes the next epoch. A runner that lost its lease does no harm: shard files are the same bytes whoever
writes them. A published run has no lease.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from screening.errors import UserError
from screening.storage import Folder

BEAT_S = 2.0
EXPIRY_S = 30.0
KEPT_EPOCHS = 16
"""Epochs that stay: folders that are never published, as of a pack or of nights, are leased for years."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    host: str
    pid: int
    token: str
    machine: str = ""  # within which the process number means something


class Lease:
    """Exclusive right to write a folder, of a run or a pack, held while the block runs.

    Parameters
    ----------
    doing
        What a holder does with the folder: it is being ``run`` by another.

    Raises
    ------
    UserError
        Another runner holds it and is alive.
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
        """Set when a later epoch was taken by somebody else."""

    def __enter__(self) -> Lease:
        while True:
            epochs = self._epochs()
            if epochs and not self._released(epochs[-1]):
                self._watch(epochs[-1])
            self._epoch = (epochs[-1] if epochs else 0) + 1
            if self._run.create(self._name(self._epoch), json.dumps(asdict(self._me)).encode()):
                if self._epochs()[-1] == self._epoch:
                    break
                self._run.remove(self._name(self._epoch))  # slept so long that this number had been removed
        for old in self._epochs()[:-KEPT_EPOCHS]:
            for suffix in (".json", ".beat", ".released"):
                self._run.remove(self._name(old, suffix))
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            if self._run.exists("manifest.json"):
                self._run.remove("lease")
            elif not self.lost.is_set():
                self._run.write(self._name(self._epoch, ".released"), b"")

    def holder(self) -> Holder | None:
        """Return who holds the lease now, None where nobody does; looks for three beats where that cannot be known at once."""
        epochs = self._epochs()
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
        while not self._stop.is_set():
            with suppress(OSError):  # a beat that fails to be written is one that the next makes good
                self._run.write(self._name(self._epoch, ".beat"), str(count).encode())
                count += 1
                if self._epochs()[-1:] != [self._epoch]:
                    self.lost.set()
            self._stop.wait(self._beat_s)

    def _watch(self, epoch: int) -> None:
        """Return when the holder of ``epoch`` is dead or done; raise when it is alive."""
        holder = self._holder(epoch)
        if holder and self._died(holder):
            return
        if holder and self._on_wait:
            self._on_wait(holder)
        before, patience = self._beat_of(epoch), time.monotonic() + self._expiry_s
        while time.monotonic() < patience:
            if self._released(epoch) or epoch not in self._epochs():
                return
            if self._beat_of(epoch) != before:
                who = f"process {holder.pid} on {holder.host}" if holder else "another process"
                raise UserError(
                    f"{self._run.url} is being {self._doing} by {who}; wait for it to end, or end it, and start again"
                )
            time.sleep(min(0.2, self._expiry_s / 5))

    def _epochs(self) -> list[int]:
        names = self._run.names("lease")
        return sorted(int(name[6:12]) for name in names if name.endswith(".json"))

    def _holder(self, epoch: int) -> Holder | None:
        with suppress(OSError, ValueError, TypeError):
            return Holder(**json.loads(self._run.read(self._name(epoch))))
        return None

    def _beat_of(self, epoch: int) -> bytes | None:
        with suppress(OSError):
            return self._run.read(self._name(epoch, ".beat"))
        return None

    def _released(self, epoch: int) -> bool:
        return self._run.exists(self._name(epoch, ".released"))

    @staticmethod
    def _name(epoch: int, suffix: str = ".json") -> str:
        return f"lease/epoch-{epoch:06d}{suffix}"


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
