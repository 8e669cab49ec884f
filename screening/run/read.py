"""Reading what a run wrote: the files its manifest names, or the finished shards of one that is not published yet."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from screening.run.ledger import finished_shards, read_manifest
from screening.run.plan import load_plan, results_name
from screening.storage import Folder


def iter_results(run: Folder, *, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield the results of a run, a table a shard, in the order of the plan."""
    manifest = read_manifest(run)
    if manifest is not None:
        names = [file["name"] for file in manifest["files"]]
    else:
        names = [results_name(shard) for shard in sorted(finished_shards(run, load_plan(run)))]
    for name in names:
        with run.open(name) as file:
            yield pq.ParquetFile(file).read(
                columns=columns
            )  # pq.read_table leaves threads that abort the process's exit
