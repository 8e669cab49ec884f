"""The stages of a run in a bare loop: no Ray, no plan, no lease, no resume. What `screening run` is held against.

    python -m tests.benchmarks.bare_loop --catalog CATALOG --out DIR --processes P --threads T [--model BUNDLE]

It reads, decodes, scores and writes by the same functions, in the same padded batch, to as many files of
as many records. Several processes take shards from one queue, so that none waits for another.
Prints JSON: seconds of a core by stage.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from screening.archive.catalog import open_catalog
from screening.archive.reader import ArchiveReader
from screening.contract import CARRIED_COLUMNS
from screening.model.bundle import PRETRAINED, load_bundle
from screening.recording import Recording, Rejected
from screening.run.fingerprint import CPU_BATCH
from screening.run.sealed import results_bytes
from screening.run.stages import Scorer, decode_shard, keep_freed_memory
from screening.settings import SHARD_RECORDS

IDENTITY = ("model_name", "model_version", "bundle_sha256", "input_contract_sha256", "run_id")

_scorer: Scorer
_reader: ArchiveReader


def start(root_url: str, model: Path, threads: int) -> None:
    """Make ready what this process needs."""
    import torch

    global _scorer, _reader
    torch.set_num_threads(threads)
    keep_freed_memory()  # as the run's workers do
    bundle = load_bundle(model)
    _reader = ArchiveReader(root_url)
    _scorer = Scorer(
        bundle,
        None,
        identity=dict.fromkeys(IDENTITY, bundle.sha256),
        attribution="none",
        device="cpu",
        batch_size=CPU_BATCH,
    )


def screen_shard(out: Path, shard: tuple[int, pa.Table]) -> dict[str, float]:
    """Read, decode, score and write one shard; return the seconds each took."""
    number, planned = shard
    reading = 0.0

    def outcomes() -> Iterator[Recording | Rejected]:
        nonlocal reading
        for location, record_id in zip(planned["location"].to_pylist(), planned["record_id"].to_pylist(), strict=True):
            begun = time.perf_counter()
            outcome = _reader.read(location, record_id)
            reading += time.perf_counter() - begun
            yield outcome

    times = [time.perf_counter()]
    decoded = decode_shard(planned, outcomes(), _scorer.bundle.preprocessing)
    times.append(time.perf_counter())
    results = _scorer.score(decoded)
    times.append(time.perf_counter())
    (out / f"part-{number:05d}.parquet").write_bytes(results_bytes(results, footer={}))
    times.append(time.perf_counter())
    decoding, scoring, writing = (after - before for before, after in zip(times, times[1:], strict=False))
    return {"read": reading, "decode and quality": decoding - reading, "score": scoring, "write": writing}


def shards(catalog_path: str, records: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield the catalog in tables of ``records`` rows."""
    catalog = open_catalog(catalog_path)
    whole = pa.Table.from_batches(catalog.iter_batches(list(CARRIED_COLUMNS), with_location=True))
    for number, first in enumerate(range(0, whole.num_rows, records)):
        yield number, whole.slice(first, records).combine_chunks()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--catalog", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=PRETRAINED)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--shard-records", type=int, default=SHARD_RECORDS)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    ready = (open_catalog(args.catalog).root_url, args.model, args.threads)
    todo = shards(args.catalog, args.shard_records)
    seconds: Counter[str] = Counter()
    if args.processes == 1:
        start(*ready)
        for shard in todo:
            seconds.update(screen_shard(args.out, shard))
    else:
        with multiprocessing.get_context("spawn").Pool(args.processes, start, ready) as pool:
            for found in pool.imap_unordered(partial(screen_shard, args.out), todo):
                seconds.update(found)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
