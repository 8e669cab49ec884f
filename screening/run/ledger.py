"""What of a run is done, who is doing it, and its publication.

Done is a file: a shard is done when its results file exists and the footer says that it belongs to this plan. A run is
published when its manifest exists; readers take the files from there, never from a listing. The manifest holds the hashes of
all that was published, and of itself.

The lease keeps two runners from doing the same work twice. Epochs are numbered and created exclusively; the owner writes
a counter, and a watcher who sees it stand still for `EXPIRY_S` on its own clock takes the next epoch. No clocks are
compared. A runner that lost its lease does no harm: shard files are the same bytes whoever writes them. A published run
has no lease.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from screening.contract import NOTICE, RESULT_SCHEMA_VERSION, sha256_of
from screening.errors import UserError
from screening.run.plan import BEGUN, Plan, results_name
from screening.run.sealed import footer_of
from screening.storage import Folder

BEAT_S = 2.0
EXPIRY_S = 30.0
KEPT_EPOCHS = 16
"""Epochs that stay: folders that are never published, as of a pack or of nights, are leased for years."""


@dataclass(frozen=True)
class ShardSummary:
    """One finished shard, as the driver and the manifest know it."""

    shard: int
    rows: int
    sha256: str
    bytes: int
    scored: int
    flagged: int
    explained: int
    reasons: dict[str, int] = field(default_factory=dict)


def footer(plan: Plan, summary: dict[str, Any]) -> dict[str, Any]:
    """Return the footer that binds a results file to its plan."""
    return {"run_id": plan.run_id, "schema_version": RESULT_SCHEMA_VERSION, **summary}


def finished_shards(run: Folder, plan: Plan) -> dict[int, ShardSummary]:
    """Return the shards whose results files are there, whole, and of this plan."""

    def look(name: str) -> ShardSummary | None:
        try:
            data = run.read(f"results/{name}")
            facts = footer_of(data) or {}
            ours = facts.pop("run_id") == plan.run_id and facts.pop("schema_version") == RESULT_SCHEMA_VERSION
            summary = ShardSummary(**facts, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        except (KeyError, TypeError, FileNotFoundError):
            return None  # not ours or damaged: it is written anew
        named = f"results/{name}" == results_name(summary.shard)
        return summary if ours and named and summary.rows == plan.shard_rows(summary.shard) else None

    with ThreadPoolExecutor(8) as pool:
        found = pool.map(look, run.names("results"))
    return {summary.shard: summary for summary in found if summary is not None}


def publish(run: Folder, plan: Plan, shards: Iterable[ShardSummary], *, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest, which publishes the run, and return it.

    Parameters
    ----------
    shards
        Every shard of the plan, once.
    facts
        What is true of this execution and not of the rows: times, settings, versions.
    """
    ordered = sorted(shards, key=lambda s: s.shard)
    if [s.shard for s in ordered] != list(range(plan.shards)) or sum(s.rows for s in ordered) != plan.records:
        raise ValueError("a run is published only when every shard of its plan is finished")
    manifest = {
        "notice": NOTICE,
        "run_id": plan.run_id,
        "schema_version": RESULT_SCHEMA_VERSION,
        "counts": counts(ordered) | {"planned": plan.records},
        "model": plan.model,
        **facts,
        "plan": plan_files(run),
        "files": [
            {"name": results_name(s.shard), "rows": s.rows, "bytes": s.bytes, "sha256": s.sha256} for s in ordered
        ],
    }
    run.remove(BEGUN)
    for folder in ("", "plan", "results"):
        run.remove_unfinished(folder)  # of workers that were killed; whoever still writes there has lost the lease
    return write_manifest(run, manifest)


def plan_files(run: Folder) -> list[dict[str, Any]]:
    """Return name, size and hash of every file of the plan."""
    names = ["plan.json", *(f"plan/{name}" for name in run.names("plan"))]
    contents = ((name, run.read(name)) for name in names)
    return [{"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents]


def write_manifest(run: Folder, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write a manifest, which makes what it names the published run, and return it with the hash of itself."""
    manifest = {key: value for key, value in manifest.items() if key != "sha256"}
    manifest["sha256"] = sha256_of(manifest)
    run.write("manifest.json", _spelt(manifest))
    return manifest


def is_sealed(data: bytes) -> bool:
    """Whether the bytes of a manifest are, to the last, those that `write_manifest` wrote."""
    try:
        manifest = json.loads(data)
        sha256 = manifest.pop("sha256")
        return sha256 == sha256_of(manifest) and data == _spelt({**manifest, "sha256": sha256})
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _spelt(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()


def counts(shards: Iterable[ShardSummary]) -> dict[str, Any]:
    """Return the sums over shards: scored, rejected, flagged, explained and rejected by reason."""
    total: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for s in shards:
        total.update(scored=s.scored, rejected=s.rows - s.scored, flagged=s.flagged, explained=s.explained)
        reasons.update(s.reasons)
    return {
        **{key: total[key] for key in ("scored", "rejected", "flagged", "explained")},
        "reasons": dict(sorted(reasons.items())),
    }


def read_manifest(run: Folder) -> dict[str, Any] | None:
    """Return the manifest of a published run, None if it is not published."""
    try:
        manifest: dict[str, Any] = json.loads(run.read("manifest.json"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"the manifest of {run.url} is damaged ({error}); `screening repair {run.url}` makes it again"
        ) from error
    return manifest


# --- Lease -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    host: str
    pid: int
    token: str
    machine: str = ""  # within which the process number means something


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
                raise HeldByAnother(
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
