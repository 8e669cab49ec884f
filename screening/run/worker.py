"""What the workers of a run do with one shard: read and decode it, score it, write it. No Ray here.

Storage that fails is a value on its way to the driver, never an exception: its shard stays unfinished and the run goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from screening.archive.isolated import Decoder, Limits
from screening.archive.pack import PackRef, pack_of
from screening.archive.reader import ArchiveReader, Fetched, nbytes_of
from screening.contract import OPERATORS, PREFIX_OF
from screening.errors import StorageError, UserError, without_messages
from screening.model.bundle import check_golden
from screening.recording import Recording, Rejected
from screening.run.bundles import fetch_bundle
from screening.run.donors import is_forgotten, load_donor_set
from screening.run.explain import Explainer
from screening.run.fingerprint import THREADS_PER_WORKER, numerics_fingerprint
from screening.run.ledger import ShardSummary, footer
from screening.run.plan import Plan, begun_name, read_locations, read_shard, results_name
from screening.run.sealed import results_bytes
from screening.run.stages import Scorer, decode_shard, keep_freed_memory
from screening.run.stopwatch import STAGES, Stopwatch
from screening.signal.preprocess import Preprocessing
from screening.storage import ATTEMPTS, REMOTE_READS, Folder, again, ahead, forbid_pickled_columns

DECODING = STAGES[:3]
"""The stages of `decode_rows`; what they took travels with the decoded rows."""


@dataclass(frozen=True)
class Source:
    """What a read task needs beside its shard's number."""

    run: Folder
    plan: Plan
    preprocessing: Preprocessing
    options: dict[str, Any]
    attempts: int = ATTEMPTS
    packed: PackRef | None = None  # holds records as they were catalogued; the archive gives what it does not


@without_messages()
def decode_block(source: Source, shard: int) -> list[pa.Table]:
    """Read task: the decoded rows of a shard, or the one row that says why storage did not give them.

    A shard that was begun before and not ended may hold what hangs a decoder, eats its memory or makes it crash; it is
    decoded in a process of its own.
    """
    keep_freed_memory()
    forbid_pickled_columns()
    # A mark of a runner that lost its lease does no harm, so that it is not asked for before each.
    run, begun = Folder(source.run.url, source.run.storage_options), begun_name(shard)
    try:
        suspicious = run.exists(begun)
        run.write(begun, b"")
        planned = again(lambda: read_shard(run, shard), source.attempts)
        places = again(lambda: read_locations(run, shard), source.attempts)
        tally: Counter[str] = Counter()
        stopwatch = Stopwatch()
        decoded = decode_rows(source, planned, places, isolated=suspicious, tally=tally, stopwatch=stopwatch)
        run.remove(begun)
    except StorageError as error:
        with suppress(OSError):
            run.remove(begun)
        return [_row(shard, error=f"shard {shard}: {error}")]
    except OSError as error:
        return [_row(shard, error=f"shard {shard}: {type(error).__name__} ({error.strerror}) in the run's folder")]
    for name, value in {"shard": shard, "packed": tally["packed"], "damaged": tally["damaged"]}.items():
        decoded = decoded.append_column(name, pa.array([value] * decoded.num_rows, pa.int32()))
    for stage in DECODING:
        decoded = decoded.append_column(
            f"{stage}_s", pa.array(np.full(decoded.num_rows, stopwatch.seconds[stage], np.float32))
        )
    return [decoded]


def decode_rows(
    source: Source,
    planned: pa.Table,
    places: Sequence[str],
    *,
    isolated: bool = False,
    tally: Counter[str] | None = None,
    stopwatch: Stopwatch | None = None,
) -> pa.Table:
    """Read and decode rows of the plan, which lie at ``places``; StorageError where storage does not give them.

    ``tally`` counts the records that the pack gave, ``packed``, and those that it should have given, ``damaged``;
    ``stopwatch`` gets the seconds of the stages `DECODING`.
    """
    reader = ArchiveReader(source.plan.archive_url, source.options)
    ids, versions = planned["record_id"].to_pylist(), planned["version"].to_pylist()
    limits = Limits(source.plan.settings["record_seconds"], source.plan.settings["record_memory_mb"])
    pack = pack_of(source.packed) if source.packed is not None else None
    rows = pack.find(ids, versions) if pack is not None else np.full(len(ids), -1)
    elsewhere = np.flatnonzero(rows < 0).tolist()
    tally = Counter() if tally is None else tally
    stopwatch = stopwatch or Stopwatch()

    def fetch(i: int) -> Fetched | Rejected:
        # The reader makes every fault of the bytes a Rejected; what it raises is the storage's.
        return again(lambda: reader.fetch(places[i], ids[i], version=versions[i]), source.attempts)

    def outcomes(pool: ThreadPoolExecutor, decoder: Decoder) -> Iterator[Recording | Rejected]:
        local = Folder(source.plan.archive_url, source.options).is_local
        fetched = map(fetch, elsewhere) if local else ahead(pool, fetch, elsewhere, size=nbytes_of)
        held = iter(pack.read(rows, ids, versions, pool=pool) if pack is not None else repeat(None, len(ids)))
        for i in range(len(ids)):
            with stopwatch.stage("fetch"):
                recording = next(held)
                found = None if recording is not None else next(fetched) if rows[i] < 0 else fetch(i)
            if recording is not None:
                tally["packed"] += 1
                yield recording
                continue
            tally["damaged"] += int(rows[i] >= 0)
            if isinstance(found, Rejected):
                yield found
            elif found is not None:
                with stopwatch.stage("decode"):
                    outcome = decoder.decode(ids[i], *found)
                yield outcome

    with (
        ThreadPoolExecutor(REMOTE_READS) as pool,
        Decoder(limits, isolated=isolated) as decoder,
        stopwatch.stage("filter"),
    ):
        return decode_shard(planned, outcomes(pool, decoder), source.preprocessing)


class ScoringActor:
    """Holds the network and the donors; refuses to start on another machine than was planned for."""

    @without_messages()
    def __init__(self, run: Folder, runs: Folder, plan: Plan, attempts: int) -> None:
        keep_freed_memory()
        forbid_pickled_columns()
        self.run, self.runs, self.plan, self.attempts = run, runs, plan, attempts
        self.scorer: Scorer | str | None = None
        with suppress(StorageError):  # asked again with the first shard, which is a better place to say so
            self.scorer = self._prepared()

    def _prepared(self) -> Scorer | str:
        try:
            return scorer_of(self.runs, self.plan)
        except UserError as error:
            return str(error)  # an exception here would end as a page of Ray's own; the driver raises it instead

    @without_messages()
    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Score a decoded shard and write its results file; return the one row that the driver sees."""
        shard = decoded["shard"][0].as_py()
        if "error" in decoded.column_names:
            return decoded
        try:
            scorer = self.scorer = self.scorer or self._prepared()
        except StorageError as error:
            return _row(shard, error=f"shard {shard}, model and donors: {error}")
        if isinstance(scorer, str):
            return _row(shard, error=scorer, fatal=True)
        if decoded.num_rows != self.plan.shard_rows(shard) or pc.count_distinct(decoded["shard"]).as_py() != 1:
            raise RuntimeError(f"a block holds {decoded.num_rows} rows and not the whole of shard {shard}")
        stopwatch = Stopwatch()
        try:
            results = scorer.score(decoded, stopwatch=stopwatch)
            # Written here: a stage of its own would cost a process start for every core, and writing takes 1% of scoring.
            with stopwatch.stage("write"):
                summary, data = results_file(self.plan, shard, results)
                again(lambda: self.run.write(results_name(shard), data), self.attempts)
        except StorageError as error:
            return _row(shard, error=f"shard {shard}, results file: {error}")
        except UserError as error:  # the run was taken over
            return _row(shard, error=str(error), fatal=True)
        seconds = stopwatch.seconds | {stage: decoded[f"{stage}_s"][0].as_py() for stage in DECODING}
        from_pack = {name: decoded[name][0].as_py() for name in ("packed", "damaged")}
        return _row(shard, summary=json.dumps(asdict(summary)), seconds=seconds, **from_pack)


def scorer_of(runs: Folder, plan: Plan, *, anywhere: bool = False) -> Scorer:
    """Return what scores the records of a plan.

    Parameters
    ----------
    anywhere
        Also where the machine's numerics are not those of the plan, so that the last digits will differ, and without
        explaining where the donors were erased with a patient.

    Raises
    ------
    UserError
        This machine differs from the plan's; model or donors are gone or damaged.
    """
    import torch

    torch.set_num_threads(THREADS_PER_WORKER)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32: the golden logits and the tolerance rest on it
    torch.backends.cudnn.deterministic = True
    device, batch_size = plan.fingerprint["device"], plan.fingerprint["batch_size"]
    if anywhere and not torch.cuda.is_available():
        device = "cpu"
    here = numerics_fingerprint(device, batch_size=batch_size)
    if here != plan.fingerprint and not anywhere:
        different = ", ".join(f"{key} ({here[key]})" for key in here if here[key] != plan.fingerprint.get(key))
        raise UserError(
            f"a worker differs from the plan of run {plan.run_id} in {different}; start a new run, or use like machines"
        )
    bundle = fetch_bundle(runs, plan.model["bundle_sha256"])
    check_golden(bundle, bundle.network(device).for_scoring(), device)
    explainer = None
    erased = anywhere and plan.donor_set is not None and is_forgotten(runs, plan.donor_set)
    if plan.donor_set and plan.settings["attribution"] != "none" and not erased:
        explainer = Explainer(
            bundle,
            load_donor_set(runs, plan.donor_set),
            operators=plan.settings["operators"],
            most=plan.settings["donors"],
            target_se=plan.settings["attribution_se"],
            device=device,
            batch_size=batch_size,
        )
    return Scorer(
        bundle,
        explainer,
        identity=plan.results_identity,
        attribution=plan.settings["attribution"],
        device=device,
        batch_size=batch_size,
    )


def results_file(plan: Plan, shard: int, results: pa.Table) -> tuple[ShardSummary, bytes]:
    """Return a shard's results file and what the driver knows of it."""
    facts = summary_of(shard, results)
    data = results_bytes(results, footer=footer(plan, facts))
    return ShardSummary(**facts, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)), data


def summary_of(shard: int, results: pa.Table) -> dict[str, Any]:
    """Return what the footer of a results file says of its rows."""
    reasons = pc.value_counts(results["reason"].drop_null()).to_pylist()
    return {
        "shard": shard,
        "rows": results.num_rows,
        "scored": results["reason"].null_count,
        "flagged": pc.sum(results["flagged"], min_count=0).as_py(),
        "explained": _explained(results),
        "reasons": dict(sorted((entry["values"], entry["counts"]) for entry in reasons)),
    }


def _explained(results: pa.Table) -> int:
    """Return how many rows have the importance of any operator."""
    donors = [results[f"{PREFIX_OF[operator]}_donors"].is_valid() for operator in OPERATORS]
    return int(pc.sum(reduce(pc.or_, donors), min_count=0).as_py())


def _row(
    shard: int,
    *,
    summary: str | None = None,
    error: str | None = None,
    fatal: bool = False,
    packed: int = 0,
    damaged: int = 0,
    seconds: dict[str, float] | None = None,
) -> pa.Table:
    """Return the one row of a shard that the driver sees."""
    columns: dict[str, Any] = {"shard": shard, "summary": summary, "error": error, "fatal": fatal}
    columns |= {"packed": packed, "damaged": damaged, "seconds": seconds}
    return pa.table({name: [value] for name, value in columns.items()}, schema=_ROW)


_ROW = pa.schema(
    {
        "shard": pa.int32(),
        "summary": pa.string(),
        "error": pa.string(),
        "fatal": pa.bool_(),
        "packed": pa.int32(),
        "damaged": pa.int32(),
        "seconds": pa.struct([(stage, pa.float64()) for stage in STAGES]),
    }
)
