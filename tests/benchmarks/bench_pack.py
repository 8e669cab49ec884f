"""How fast is a pack beside the small files that it was made from, on a disk and on an object store that answers late?

    python -m tests.benchmarks.bench_pack --archive DIR [--records N] [--rounds R] [--latency-ms MS] [--json OUT]

Both give the same recordings to the same process, in turns, shard by shard as a run's read tasks ask for them: one core on the
disk; on the store the threads that a read task has. What it does with the recordings is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from screening.archive import pack as pack_module
from screening.archive import wfdb
from screening.archive.build import build_catalog
from screening.archive.catalog import Catalog, open_catalog
from screening.archive.pack import Pack, open_pack
from screening.archive.packed import Rows
from screening.archive.reader import ArchiveReader, nbytes_of
from screening.recording import Recording, Rejected
from screening.run.packing import PackSummary, pack_archive
from screening.run.stages import keep_freed_memory
from screening.settings import SHARD_RECORDS
from screening.storage import REMOTE_READS, Folder, ahead
from tests.benchmarks.contenders import Failed, archive_of, catalog_of
from tests.benchmarks.slow_store import BUCKET, serving
from tests.benchmarks.table import Report, Row, machine, show, spread

Shard = list[tuple[str, str, str]]
"""Record id, version and location of each record."""
Read = Callable[[Shard], Iterator[Recording | Rejected]]


def shards_of(catalog: Catalog) -> list[Shard]:
    """Cut a catalog as a run does."""
    batches = catalog.iter_batches(["record_id", "version"], with_location=True)
    rows = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
    return [rows[i : i + SHARD_RECORDS] for i in range(0, len(rows), SHARD_RECORDS)]  # type: ignore[misc]


def from_archive(reader: ArchiveReader, pool: ThreadPoolExecutor | None) -> Read:
    """Return what reads a shard from small files."""

    def read(shard: Shard) -> Iterator[Recording | Rejected]:
        def fetch(one: tuple[str, str, str]) -> Any:
            return reader.fetch(one[2], one[0], version=one[1])

        fetched = map(fetch, shard) if pool is None else ahead(pool, fetch, shard, size=nbytes_of)
        for record, found in zip(shard, fetched, strict=True):
            yield found if isinstance(found, Rejected) else wfdb.decode(record[0], *found)

    return read


def from_pack(pack: Pack, files: Read, pool: ThreadPoolExecutor | None) -> Read:
    """Return what reads a shard from a pack, and what that does not give from ``files``, as a run does."""

    def read(shard: Shard) -> Iterator[Recording | Rejected]:
        ids, versions = [one[0] for one in shard], [one[1] for one in shard]
        rows = pack.find(ids, versions)
        missing = [one for one, row in zip(shard, rows, strict=True) if row < 0]
        if len(missing) > len(shard) / 8:
            raise Failed(
                f"the pack does not hold {len(missing)} of {len(shard)} records; give an archive of good records"
            )
        rest = files(missing)
        for outcome in pack.read(rows, ids, versions, pool=pool):
            yield next(rest) if outcome is None else outcome

    return read


def rates(readers: dict[str, Read], shards: list[Shard], rounds: int) -> dict[str, list[float]]:
    """Return records a second of each round, by reader; which goes first changes with every shard."""
    found: dict[str, list[float]] = defaultdict(list)
    names = list(readers)
    for turn in range(rounds + 1):
        seconds: dict[str, float] = defaultdict(float)
        for i, shard in enumerate(shards):
            first = (turn + i) % len(names)
            for name in names[first:] + names[:first]:
                begun = time.perf_counter()
                deque(readers[name](shard), maxlen=0)
                seconds[name] += time.perf_counter() - begun
        if turn:  # the first round fills caches and opens connections
            for name in names:
                found[name].append(sum(map(len, shards)) / seconds[name])
    return found


@contextmanager
def stages() -> Iterator[dict[str, float]]:
    """Yield seconds spent in each step of reading a pack, added up while the block runs."""
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent[name] += time.perf_counter() - begun

        return call

    kept = (Folder.read, pack_module._is_whole, pack_module.pq.ParquetFile.read_row_group, Rows.outcome)
    Folder.read = timed("reading bytes", kept[0])  # type: ignore[method-assign]
    pack_module._is_whole = timed("checksums", kept[1])
    pack_module.pq.ParquetFile.read_row_group = timed("lz4 and Parquet", kept[2])
    Rows.outcome = timed("millivolts", kept[3])  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        Folder.read, pack_module._is_whole = kept[:2]  # type: ignore[method-assign]
        pack_module.pq.ParquetFile.read_row_group, Rows.outcome = kept[2:]  # type: ignore[method-assign]


def measure(source: Path, folder: Path, *, records: int, rounds: int, latency_ms: float) -> Report:
    """Measure on a disk and on an object store."""
    keep_freed_memory()
    archive = archive_of(source, folder / "disk", records)
    catalog, pack = open_catalog(str(catalog_of(archive))), Folder(str(folder / "disk" / "pack"))
    begun = time.perf_counter()
    summary = pack_archive(catalog, pack)
    packing = records / (time.perf_counter() - begun)
    shards = shards_of(catalog)
    files = from_archive(ArchiveReader(catalog.root_url), None)
    read_pack = from_pack(_opened(pack, catalog), files, None)
    disk = rates({"files": files, "pack": read_pack}, shards, rounds)
    with stages() as spent:
        for shard in shards:
            deque(read_pack(shard), maxlen=0)
    parts = {name: 1e3 * seconds / records for name, seconds in spent.items()}
    store = on_store(archive, folder / "store", rounds=rounds, latency_ms=latency_ms)
    rows = (
        Row(
            "read from a pack / from small files, records a second of a core, local disk",
            spread(ours / theirs for ours, theirs in zip(disk["pack"], disk["files"], strict=True)),
            f"{spread(disk['pack'])} records/s",
            f"{spread(disk['files'])} records/s",
            "a core: "
            + ", ".join(f"{name} {ms:.3f}" for name, ms in sorted(parts.items(), key=lambda p: -p[1]))
            + " ms",
        ),
        Row(
            f"read from a pack / from small files, records a second, S3 on loopback with {latency_ms:g} ms added",
            spread(ours / theirs for ours, theirs in zip(store["pack"], store["files"], strict=True)),
            f"{spread(store['pack'])} records/s",
            f"{spread(store['files'])} records/s",
            "the HTTP client in Python, on one core; small files take four requests a record, of which 16 are under way",
        ),
        Row(
            "bytes of a pack / of small files",
            spread([summary.bytes / _size(catalog)]),
            f"{summary.bytes / records / 1e3:.1f} kB a record",
            f"{_size(catalog) / records / 1e3:.1f} kB a record",
            "lz4 of int16; zstd would take a quarter less and twice the time to undo",
        ),
    )
    figures = {"records": records, "disk": disk, "ms_of_packed": parts, "store": store, "packed_a_second": packing}
    return Report("pack", rows, figures | {"bytes": summary.bytes, "bytes_of_files": _size(catalog)})


def on_store(archive: Path, folder: Path, *, rounds: int, latency_ms: float) -> dict[str, list[float]]:
    """Return records a second from an object store, by reader."""
    with serving(folder, latency_ms=latency_ms) as options:
        shutil.copytree(archive, folder / "archive", copy_function=os.link)
        url = f"s3://{BUCKET}/archive"
        build_catalog(url, str(folder.parent / "store-catalog"), deidentified=True, storage_options=options)
        catalog = open_catalog(str(folder.parent / "store-catalog"))
        _packed(catalog, Folder(str(folder / "pack")), options)
        with ThreadPoolExecutor(REMOTE_READS) as pool:
            files = from_archive(ArchiveReader(url, options), pool)
            pack = from_pack(_opened(Folder(f"s3://{BUCKET}/pack", options), catalog), files, pool)
            return rates({"files": files, "pack": pack}, shards_of(catalog), rounds)


def _packed(catalog: Catalog, folder: Folder, options: dict[str, Any]) -> PackSummary:
    return pack_archive(catalog, folder, storage_options=options)


def _opened(folder: Folder, catalog: Catalog) -> Pack:
    return Pack(folder, open_pack(folder, root_url=catalog.root_url, key_id=catalog.key_id).index)


def _size(catalog: Catalog) -> int:
    return int(catalog.settings["counts"]["bytes"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archive", type=Path, required=True, help="folder of WFDB records, e.g. PTB-XL at 500 Hz")
    parser.add_argument("--records", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--latency-ms", type=float, default=30)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    where = machine()
    with tempfile.TemporaryDirectory(prefix="screening-bench-") as name:
        try:
            report = measure(
                options.archive,
                Path(name),
                records=options.records,
                rounds=options.rounds,
                latency_ms=options.latency_ms,
            )
        except Failed as error:
            sys.exit(f"Error: {error}")
    print(show(report.rows))
    packed = report.figures["packed_a_second"]
    print(f"\npacking on one core: {packed:,.0f} records/s; load before: {where['load']}")
    if options.json:
        options.json.write_text(json.dumps({"machine": where, **report.figures}, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
