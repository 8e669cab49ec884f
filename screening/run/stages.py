"""The stages of a run as plain functions of one shard: planned rows -> decoded rows -> result rows. No Ray here."""

from __future__ import annotations

import ctypes
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import ThreadpoolController

from screening.contract import (
    CARRIED_COLUMNS,
    EXPLANATION_COLUMNS,
    N_LEADS,
    QUALITY_COLUMNS,
    Reason,
    Status,
    result_schema,
)
from screening.model.bundle import Bundle
from screening.recording import Recording, Rejected
from screening.run.explain import Explainer
from screening.run.stopwatch import Stopwatch
from screening.signal.preprocess import Preprocessing, preprocess
from screening.signal.quality import assess, verdicts
from screening.signal.tracing import tracing_hashes

DECODE_CHUNK = 16
DECODE_CHUNK_BYTES = 64 * 2**20
"""Recordings decoded at once: 16 of ten seconds at 500 Hz are 4 MB, which a core's cache holds; long ones must not add up."""

_QUALITY_NAMES = tuple(name for name, _, _ in QUALITY_COLUMNS)
_FACTS = ("reason", "detail", "record_sha256", "tracing_hash", "source_format", "unit_source", *_QUALITY_NAMES)


def decode_shard(
    planned: pa.Table,
    outcomes: Iterable[Recording | Rejected],
    settings: Preprocessing,
) -> pa.Table:
    """Turn a shard's recordings into rows with the network's input beside the facts about each record.

    Parameters
    ----------
    planned
        The shard's rows of the plan, with the `CARRIED_COLUMNS` columns.
    outcomes
        What reading gave for each row, in order; consumed lazily.
    settings
        Preprocessing of the bundle.

    Returns
    -------
    pa.Table
        The carried columns, reason and detail (null where the record is good), provenance, quality columns, and
        ``signal``: fixed-size list of 12 x samples float32 filtered mV, null where rejected.
    """
    samples = settings.samples
    signals = np.zeros((planned.num_rows, N_LEADS * samples), np.float32)
    facts: list[dict[str, Any]] = []
    with one_thread():
        for chunk in _chunks(outcomes):
            facts += _decode_chunk(chunk, settings, signals[len(facts) : len(facts) + len(chunk)])
    if len(facts) != planned.num_rows:
        raise ValueError(f"{len(facts)} outcomes for {planned.num_rows} planned records")
    schema = result_schema()
    columns = {name: planned[name] for name in CARRIED_COLUMNS}
    for name in _FACTS:
        columns[name] = pa.array([fact.get(name) for fact in facts], schema.field(name).type)
    rejected = pa.array([fact.get("reason") is not None for fact in facts], pa.bool_())
    columns["signal"] = pa.FixedSizeListArray.from_arrays(
        pa.array(signals.reshape(-1)), N_LEADS * samples, mask=rejected
    )
    return pa.table(columns)


def _chunks(outcomes: Iterable[Recording | Rejected]) -> Iterator[list[Recording | Rejected]]:
    chunk: list[Recording | Rejected] = []
    held = 0
    for outcome in outcomes:
        chunk.append(outcome)
        held += outcome.signal_mV.nbytes if isinstance(outcome, Recording) else 0
        if len(chunk) == DECODE_CHUNK or held >= DECODE_CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _decode_chunk(
    chunk: Sequence[Recording | Rejected], settings: Preprocessing, out: np.ndarray
) -> list[dict[str, Any]]:
    """Fill ``out`` (one row a record) and return the facts; recordings of one rate and length go through together."""
    facts: list[dict[str, Any]] = [{} for _ in chunk]
    alike: dict[tuple[float, int], list[int]] = defaultdict(list)
    for i, outcome in enumerate(chunk):
        facts[i] = {"record_sha256": outcome.sha256, "source_format": outcome.source_format}
        if isinstance(outcome, Rejected):
            facts[i] |= {"reason": outcome.reason, "detail": outcome.detail}
        else:
            facts[i]["unit_source"] = outcome.unit_source
            alike[outcome.rate_hz, outcome.signal_mV.shape[1]].append(i)
    for (rate_hz, _), members in alike.items():
        try:
            _decode_alike(chunk, members, rate_hz, settings, facts, out)
        except (MemoryError, OSError):
            raise
        except Exception:  # one record must not end the run: each is tried by itself
            for i in members:
                try:
                    _decode_alike(chunk, [i], rate_hz, settings, facts, out)
                except (MemoryError, OSError):
                    raise
                except Exception as error:
                    facts[i] |= {"reason": Reason.UNDECODABLE, "detail": f"the filters failed: {type(error).__name__}"}
    return facts


def _decode_alike(
    chunk: Sequence[Recording | Rejected],
    members: list[int],
    rate_hz: float,
    settings: Preprocessing,
    facts: list[dict[str, Any]],
    out: np.ndarray,
) -> None:
    """Judge and filter recordings of one rate and length: rows ``members`` of the chunk, of ``facts`` and of ``out``."""
    recordings = [chunk[i] for i in members]
    stacked = np.stack([r.signal_mV for r in recordings if isinstance(r, Recording)])
    samples = stacked.shape[2]
    if samples < settings.min_window_s * rate_hz - 0.5:  # rounding of a length that is no whole number
        found = f"{samples / rate_hz:.1f} s, and at least {settings.min_window_s:g} s are needed"
        for i in members:
            facts[i] |= {"reason": Reason.TOO_SHORT, "detail": found, "duration_s": samples / rate_hz}
        return
    quality = assess(stacked, rate_hz)
    good = []
    hashes = tracing_hashes(stacked, rate_hz)
    for row, (i, verdict) in enumerate(zip(members, verdicts(quality), strict=True)):
        facts[i]["tracing_hash"] = hashes[row]
        facts[i] |= {name: _plain(quality[name][row]) for name in _QUALITY_NAMES}
        recording = chunk[i]
        if isinstance(recording, Recording) and recording.flags:
            facts[i]["quality_flags"] = ",".join(filter(None, [*recording.flags, facts[i]["quality_flags"]]))
        if verdict is None:
            good.append(row)
        else:
            facts[i] |= {"reason": verdict[0], "detail": verdict[1]}
    if good:
        filtered = preprocess(stacked[good], rate_hz, settings)
        out[[members[row] for row in good]] = filtered.reshape(len(good), -1)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def keep_freed_memory() -> None:
    """Tell the C library to keep what arrays free, once a process.

    By default glibc gives large blocks back to the kernel and gets them anew, page fault by page fault, for every record.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 32 * 2**20)  # the largest it takes
    libc.mallopt(trim_threshold, 512 * 2**20)


def one_thread() -> AbstractContextManager[Any]:
    """Keep NumPy's matrix products to one thread within a block.

    More of them than a worker has cores wait for each other, and cut sums in other places: the last digits would differ.
    """
    return _linear_algebra().limit(limits=1, user_api="blas")


@cache
def _linear_algebra() -> ThreadpoolController:
    return ThreadpoolController()


class Scorer:
    """Scores and explains decoded shards with one bundle; holds the network and the donors.

    Parameters
    ----------
    bundle
        The model; its golden logits must have been checked on this device.
    explainer
        Explains with the same bundle; None: nothing is explained.
    identity
        The constant columns of every row: model_name, model_version, bundle_sha256, input_contract_sha256, run_id.
    attribution
        Which scored records are explained: flagged, all or none.
    device, batch_size
        Where, and in what padded batch, the network runs. The batch shape never varies, because libraries choose
        their algorithms, and so the last bits, by shape.
    """

    def __init__(
        self,
        bundle: Bundle,
        explainer: Explainer | None,
        *,
        identity: dict[str, str],
        attribution: str,
        device: str,
        batch_size: int,
    ) -> None:
        self.bundle = bundle
        self.explainer = explainer
        self.identity = identity
        self.attribution = attribution
        self.logits = batched_logits(bundle, device=device, batch_size=batch_size)

    def score(self, decoded: pa.Table, *, stopwatch: Stopwatch | None = None) -> pa.Table:
        """Return the result rows (contract.RESULT_COLUMNS) of a decoded shard; ``stopwatch`` gets score and explain."""
        stopwatch = stopwatch or Stopwatch()
        rows = decoded.num_rows
        good = np.flatnonzero(decoded["reason"].is_null().to_numpy())
        signals = _signals(decoded["signal"], self.bundle.preprocessing.samples)
        with stopwatch.stage("score"):
            logit = np.fromiter(self.logits(signals[i] for i in good), np.float32, len(good))
        probability = np.asarray(self.bundle.calibrator.probability(logit.astype(np.float64)))
        flagged = probability >= self.bundle.threshold
        columns: dict[str, Any] = {name: decoded[name] for name in (*CARRIED_COLUMNS, *_FACTS)}
        columns["status"] = [Status.SCORED if ok else Status.REJECTED for ok in decoded["reason"].is_null().to_pylist()]
        columns["logit"] = _spread(good, logit, rows)
        columns["probability"] = _spread(good, probability.astype(np.float32), rows)
        columns["flagged"] = _spread(good, flagged, rows)
        with stopwatch.stage("explain"), one_thread():
            columns |= self._explain(decoded, signals, good, logit, flagged)
        columns |= {name: [value] * rows for name, value in self.identity.items()}
        schema = result_schema()
        return pa.table(
            [
                c.cast(f.type) if isinstance(c := columns[f.name], pa.ChunkedArray) else pa.array(c, f.type)
                for f in schema
            ],
            schema=schema,
        )

    def _explain(
        self, decoded: pa.Table, signals: np.ndarray, good: np.ndarray, logit: np.ndarray, flagged: np.ndarray
    ) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {name: [None] * decoded.num_rows for name, _, _ in EXPLANATION_COLUMNS}
        chosen = {"all": np.ones_like(flagged), "flagged": flagged, "none": np.zeros_like(flagged)}[self.attribution]
        if self.explainer is None or not chosen.any():
            return columns
        wanted = good[chosen]
        of_whom = decoded.select(["record_id", "patient_key", "sex", "age"]).take(wanted)
        persons = [tuple(row.values()) for row in of_whom.to_pylist()]
        for i, explained in zip(wanted, self.explainer.explain(signals[wanted], logit[chosen], persons), strict=True):
            for name, value in explained.items():
                columns[name][i] = value
        return columns


def batched_logits(
    bundle: Bundle, *, device: str, batch_size: int
) -> Callable[[Iterable[np.ndarray]], Iterator[float]]:
    """Return a function from a stream of (12, samples) arrays to their logits, run in padded batches of one shape."""
    from screening.model.lanes import lanes_for, logits_through

    shape = (batch_size, N_LEADS, bundle.preprocessing.samples)
    return logits_through(lanes_for(bundle.network(device).for_scoring(), shape, device), batch_size)


def _signals(column: pa.ChunkedArray, samples: int) -> np.ndarray:
    """Return the signal column as float32 (rows, 12, samples) without a copy where it is one chunk."""
    parts = [chunk.flatten() if chunk.null_count == 0 else _values(chunk) for chunk in column.chunks]
    flat = parts[0] if len(parts) == 1 else pa.concat_arrays(parts)
    return np.asarray(flat).reshape(-1, N_LEADS, samples)


def _values(chunk: pa.FixedSizeListArray) -> pa.Array:
    """Values of every slot, null ones included (``flatten`` drops those)."""
    width = chunk.type.list_size
    return chunk.values.slice(chunk.offset * width, len(chunk) * width)


def _spread(good: np.ndarray, values: np.ndarray, rows: int) -> list[Any]:
    column: list[Any] = [None] * rows
    for i, value in zip(good.tolist(), values.tolist(), strict=True):
        column[i] = value
    return column
