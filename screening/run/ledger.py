"""What of a run is done, and its publication.

Done is a file: a shard is done when its results file exists and the footer says that it belongs to this plan. A run is
published when its manifest exists; readers take the files from there, never from a listing. The manifest holds the hashes of
all that was published, and of itself.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from screening.contract import NOTICE, RESULT_SCHEMA_VERSION, sha256_of
from screening.errors import UserError
from screening.run.plan import BEGUN, Plan, results_name, slice_names
from screening.run.sealed import footer_of, is_whole
from screening.storage import Folder


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

    Raises
    ------
    UserError
        A file of the plan was damaged while the run was made, so that its rows may be of other records.
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
        "plan": plan_files(run, ["plan.json", *sorted(slice_names(range(plan.shards)))]),
        "files": [
            {"name": results_name(s.shard), "rows": s.rows, "bytes": s.bytes, "sha256": s.sha256} for s in ordered
        ],
    }
    run.remove(BEGUN)
    for folder in ("", "plan", "results"):
        run.remove_unfinished(folder)  # of workers that were killed; whoever still writes there has lost the lease
    return write_manifest(run, manifest)


def plan_files(run: Folder, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return name, size and hash of files of the plan; UserError where one of them tells that it is damaged."""
    entries = []
    for name in names:
        try:
            data = run.read(name)
        except FileNotFoundError:
            data = b""
        if not data or (name.startswith("plan/") and is_whole(data) is False):
            raise UserError(f"{name} of {run.url} was damaged while the run was made; remove the run and screen again")
        entries.append({"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    return entries


def write_manifest(run: Folder, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write a manifest, which makes what it names the published run, and return it with the hash of itself."""
    manifest = {key: value for key, value in manifest.items() if key != "sha256"}
    manifest["sha256"] = sha256_of(manifest)
    run.sync_names("", "plan", "results")
    run.write("manifest.json", _spelt(manifest))
    run.sync_names("")
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
