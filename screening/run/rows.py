"""Reading a published run's plan and results side by side, so that each row is known by record and by place."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from screening.errors import UserError
from screening.run.plan import SLICE, read_shards, results_name
from screening.storage import Folder

_PIECE_ROWS, _PIECE_SHARDS = 65_536, 64
"""Read at once by one thread."""
_THREADS = 4


ROWS = pa.schema(
    [
        ("record_id", pa.string()),
        ("version", pa.string()),
        ("patient_key", pa.string()),
        ("run", pa.int32()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("status", pa.string()),
        ("record_sha256", pa.string()),
        ("tracing_hash", pa.string()),  # null in runs of releases that made none
    ]
)


def iter_rows(
    run_folder: Folder, files: Sequence[Mapping[str, Any]], shard_records: int, *, run: int
) -> Iterator[pa.Table]:
    """Yield tables of `ROWS`, a run's rows in the order of the plan.

    Parameters
    ----------
    run_folder
        Of the run.
    files
        Of its manifest: name, rows.
    shard_records
        Of its plan.
    run
        The number in column ``run``.

    Raises
    ------
    UserError
        A file is absent, cannot be read, or holds other records than the plan says.
    """
    pieces = _pieces(len(files), shard_records)
    with ThreadPoolExecutor(_THREADS) as pool:
        ahead: deque[Future[pa.Table]] = deque()
        try:
            for piece in pieces:
                ahead.append(pool.submit(_read, run_folder, files, piece, run))
                if len(ahead) > _THREADS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _pieces(shards: int, shard_records: int) -> list[range]:
    """Cut the shards into consecutive ranges, each within one slice of the plan."""
    step = max(1, min(_PIECE_SHARDS, _PIECE_ROWS // shard_records))
    return [
        range(start, min(start + step, first + SLICE, shards))
        for first in range(0, shards, SLICE)
        for start in range(first, min(first + SLICE, shards), step)
    ]


def _read(folder: Folder, files: Sequence[Mapping[str, Any]], piece: range, run: int) -> pa.Table:
    try:
        table = read_shards(folder, piece, columns=["record_id", "version", "patient_key"])
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(folder, f"the plan of shards {piece.start} to {piece.stop - 1}", error) from error
    results = []
    for shard in piece:
        name = files[shard]["name"]
        if name != results_name(shard):
            raise _unreadable(folder, f"manifest.json, which names {name!r} as shard {shard},", None)
        try:
            with folder.open(name) as file:
                results.append(_results(file))
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(folder, name, error) from error
        if results[-1].num_rows != files[shard]["rows"]:
            raise _unreadable(
                folder, f"{name}, which has {results[-1].num_rows} rows and not {files[shard]['rows']},", None
            )
    rows = [part.num_rows for part in results]
    result = pa.concat_tables(results)
    if not result["record_id"].combine_chunks().equals(table["record_id"].combine_chunks()):
        raise _unreadable(
            folder, f"a file of shards {piece.start} to {piece.stop - 1}, which are of other records,", None
        )
    columns = {
        **{name: table[name] for name in ("record_id", "version", "patient_key")},
        "run": pa.array(np.full(sum(rows), run, dtype=np.int32)),
        "shard": pa.array(np.repeat(np.arange(piece.start, piece.stop, dtype=np.int32), rows)),
        "row": pa.array(np.concatenate([np.arange(n, dtype=np.int32) for n in rows])),
        "status": result["status"],
        "record_sha256": result["record_sha256"],
        "tracing_hash": result["tracing_hash"],
    }
    return pa.table(columns, schema=ROWS)


def _results(file: BinaryIO) -> pa.Table:
    parquet = pq.ParquetFile(file, pre_buffer=False)
    wanted = ["record_id", "status", "record_sha256", "tracing_hash"]
    table = parquet.read([name for name in wanted if name in parquet.schema_arrow.names])
    if "tracing_hash" not in table.column_names:
        table = table.append_column("tracing_hash", pa.nulls(table.num_rows, pa.string()))
    return table


def _unreadable(run: Folder, what: str, error: Exception | None) -> UserError:
    kind = f" ({type(error).__name__})" if error else ""
    return UserError(
        f"{what} in the published run {run.url} cannot be used{kind}; `screening verify {run.url}` names what is damaged, "
        "and `screening repair` makes it again"
    )
