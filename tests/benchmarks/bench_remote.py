"""Reading small files from an object store that answers late, as a decode task does, and through fsspec alone.

    python -m tests.benchmarks.bench_remote --archive DIR [--records N] [--rounds R] [--latency-ms 0,30] [--json OUT]

The store is a process of its own on this machine (`slow_store`), which takes another core. The ways take turns, shard by shard:

- as a run reads: `REMOTE_READS` at once, one request a file (`archive.objects`);
- through fsspec, which was the only way before: 16 at once, two requests a file, because the mark of a file is asked for apart;
- from the local disk, which is what waiting for nothing would give.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.reader import ArchiveReader
from screening.storage import REMOTE_READS
from tests.benchmarks.bench_pack import Read, Shard, from_archive, shards_of
from tests.benchmarks.contenders import archive_of, catalog_of
from tests.benchmarks.slow_store import BUCKET, serving
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

BEFORE = 16


def figures(readers: dict[str, Read], shards: list[Shard], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return records a second, and milliseconds of the processor a record, of each round."""
    found: dict[str, dict[str, list[float]]] = {name: {"rate": [], "core_ms": []} for name in readers}
    records = sum(map(len, shards))
    for turn in range(rounds + 1):
        spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for shard in shards:
            for name, read in readers.items():
                begun, core = time.perf_counter(), time.process_time()
                for _ in read(shard):
                    pass
                spent[name][0] += time.perf_counter() - begun
                spent[name][1] += time.process_time() - core
        if turn:  # the first opens connections
            for name, (seconds, core) in spent.items():
                found[name]["rate"].append(records / seconds)
                found[name]["core_ms"].append(1e3 * core / records)
    return found


def measure(
    archive: Path, folder: Path, *, records: int = 768, rounds: int = 3, latencies_ms: tuple[float, ...] = (0, 30)
) -> Report:
    """Time reading in turns."""
    some = archive_of(archive, folder / "archive", records)
    shards = shards_of(open_catalog(str(catalog_of(some))))
    rows: list[Row] = []
    details: dict[str, Any] = {}
    for latency_ms in latencies_ms:
        with (
            serving(some, latency_ms=latency_ms) as options,
            ThreadPoolExecutor(REMOTE_READS) as pool,
            ThreadPoolExecutor(BEFORE) as few,
        ):
            place = str(folder / f"s3-{latency_ms:g}")
            begun = time.perf_counter()
            build_catalog(f"s3://{BUCKET}", place, deidentified=True, storage_options=options)
            scanned = records / (time.perf_counter() - begun)
            remote = shards_of(open_catalog(place))
            old = ArchiveReader(f"s3://{BUCKET}", options)
            old._objects = None
            ours: Any = from_archive(ArchiveReader(f"s3://{BUCKET}", options), pool)
            readers = {"ours": ours, "fsspec": from_archive(old, few)}
            found = figures(readers, remote, rounds)
        found |= figures({"local": from_archive(ArchiveReader(str(some)), None)}, shards, rounds)
        details[f"{latency_ms:g} ms"] = found
        waits = f"waiting, with {REMOTE_READS} requests at once, and core"
        rows.append(
            Row(
                f"catalog of S3 at +{latency_ms:g} ms: records/s / 500",
                spread([scanned / 500]),
                f"{scanned:.0f} records/s, listing and a header each",
                "the aim of 500",
                "core: listing, and a request a header" if latency_ms < 10 else waits,
                ">= 1",
            )
        )
        for other, what in (("fsspec", "through fsspec"), ("local", "from the disk")):
            rows.append(
                Row(
                    f"a task reading small files from S3 at +{latency_ms:g} ms / {what}, records/s",
                    spread(a / b for a, b in zip(found["ours"]["rate"], found[other]["rate"], strict=True)),
                    f"{spread(found['ours']['rate'])} records/s, {spread(found['ours']['core_ms'])} ms of a core a record",
                    f"{spread(found[other]['rate'])} records/s, {spread(found[other]['core_ms'])} ms of a core",
                    "core: requests and decoding" if latency_ms < 10 else waits,
                )
            )
    return Report("remote", tuple(rows), {"records": records, "by_latency": details})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archive", type=Path, required=True, help="folder of WFDB records, e.g. PTB-XL at 500 Hz")
    parser.add_argument("--records", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", default="0,30")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    where = machine()
    latencies = tuple(float(part) for part in options.latency_ms.split(","))
    with tempfile.TemporaryDirectory(prefix="screening-bench-") as name:
        report = measure(
            options.archive, Path(name), records=options.records, rounds=options.rounds, latencies_ms=latencies
        )
    print(show(report.rows))
    if options.json:
        write_json(options.json, [report], where=where)


if __name__ == "__main__":
    main()
