"""Which row of each record wins, worked out and written by DuckDB: the data files of a version of `current`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from screening.run.duck import database, literal, path_namer, streamed
from screening.run.rows import ROWS
from screening.signal.tracing import SAME_BITS
from screening.storage import Folder

INDEX, LEFT_OUT, DUPLICATES = "index.parquet", "left_out.parquet", "duplicates.parquet"
FILES = (INDEX, LEFT_OUT, DUPLICATES)
VERSION = """coalesce(CASE WHEN length(version) = 16 THEN try_cast('0x' || version AS UBIGINT) END,
                      md5_number_lower(version))"""
"""SQL for a catalog's ``version`` as 64 bits: read as hex where it is 16 characters of it, else from its MD5."""
_COLUMNS = f"""record_id, {VERSION} AS version, run, shard, "row", status = 'scored' AS scored,
               ('0x' || record_sha256[1:16])::UBIGINT AS content, {
    ", ".join(f"('0x' || tracing_hash[{16 * k + 1}:{16 * k + 16}])::UBIGINT AS t{k}" for k in range(4))
}"""
"""Of the index. ``content`` is the first 64 bits of the SHA-256 of the record's bytes, t0 to t3 are the tracing's hash; as
strings, they and version would double the index."""
_COPY = "COPY ({}) TO $path (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 65536)"  # what locating one record reads


def write_files(
    out: Path,
    incoming: Iterator[pa.RecordBatch],
    *,
    base: tuple[Folder, Mapping[str, str]] | None,
    alone: bool,
    forgotten: tuple[tuple[str, ...], tuple[str, ...]],
    memory_mb: int,
) -> dict[str, int]:
    """Write the data files of a version into ``out`` and return its counts.

    Parameters
    ----------
    incoming
        Rows of the entering runs, as `rows.ROWS`.
    base
        Folder of the version that is built upon, and where in it each of `FILES` is; None builds from nothing.
    alone
        All of ``incoming`` is of one run and there is no ``base``.
    forgotten
        Record ids and patient keys that are left out.
    """
    with database(memory_mb=memory_mb) as db:
        index, duplicates = literal(str(out / INDEX)), literal(str(out / DUPLICATES))
        db.execute('CREATE TABLE left_out (run INTEGER, shard INTEGER, "row" INTEGER, why VARCHAR)')
        if alone and not any(forgotten):  # nothing can be left out: sort and write
            with streamed(db, "incoming", ROWS, incoming):
                db.execute(
                    _COPY.format(f"SELECT {_COLUMNS} FROM incoming ORDER BY record_id"), {"path": str(out / INDEX)}
                )
        else:
            with streamed(db, "incoming", ROWS, incoming):
                _enter(db, forgotten)
            _base(db, base)
            _supersede(db)
            winners = "SELECT * EXCLUDE h FROM candidates c ANTI JOIN twice t ON t.h = c.h AND t.run > c.run"
            db.execute(_COPY.format(f"{winners} ORDER BY record_id"), {"path": str(out / INDEX)})
        db.execute(_COPY.format('FROM left_out ORDER BY run, shard, "row"'), {"path": str(out / LEFT_OUT)})
        _find_same(db, index)
        db.execute(_COPY.format("FROM same ORDER BY record_id"), {"path": str(out / DUPLICATES)})
        return _counts(db, index, duplicates)


_STEPS = (0, 1, 3)
"""From one byte of a hash to those of a band, round the 32; of two bands no more than one byte is the same."""
_MOST = 64
"""Records of one band that others are compared with: by chance there are not so many of them in 100 million records."""


def _bands() -> Iterator[str]:
    """Yield SQL for three bytes of a tracing's hash, in 32 ways.

    Of two hashes that differ in 17 of 256 bits, anywhere, all bands differ three times in 10,000; in 20 bits, five times in
    1,000; in 24, five times in 100. A band has 16.8 million values, so that chance makes few alike in millions of records.
    """
    octets = [f"((s.t{k} >> {shift}) & 255)" for k in range(4) for shift in range(56, -1, -8)]
    for first in range(32):
        one, other, third = (octets[(first + step) % 32] for step in _STEPS)
        yield f"({one} << 16) + ({other} << 8) + {third}"


def _find_same(db: duckdb.DuckDBPyConnection, index: str) -> None:
    """Make ``same``: scored records of the same bytes, or the same tracing, as another; the smallest id stands for all.

    Tracings are compared where one of the bands of their hashes is the same.
    """
    words = [f"t{k}" for k in range(4)]
    db.execute(
        f"""CREATE TABLE scored AS SELECT file_row_number AS ord, content, {", ".join(words)}
            FROM read_parquet($index, file_row_number = true) WHERE scored""",
        {"index": index},
    )
    db.execute("CREATE TABLE pairs (ord BIGINT, other BIGINT, how VARCHAR)")
    for keys, how in (["content"], "bytes"), (words, "tracing"):
        same = " AND ".join(f"s.{key} = first.{key}" for key in keys)
        db.execute(f"""
            INSERT INTO pairs SELECT s.ord, first.ord, '{how}'
            FROM scored s
            JOIN (SELECT {", ".join(keys)}, min(ord) AS ord FROM scored GROUP BY ALL HAVING count(*) > 1) first ON {same}
            WHERE s.ord <> first.ord""")
    db.execute(f"""CREATE TABLE tracings AS SELECT min(ord) AS ord, {", ".join(words)} FROM scored
                   WHERE t0 IS NOT NULL GROUP BY ALL""")
    # bit_count is an INT8, of which four add up to no more than 127.
    apart = " + ".join(f"bit_count(xor(s.{word}, other.{word}))::INTEGER" for word in words)
    for band in _bands():
        db.execute(f"""
            INSERT INTO pairs
            WITH many AS (SELECT {band} AS band FROM tracings s GROUP BY ALL HAVING count(*) > 1),
                 alike AS (SELECT s.*, many.band FROM tracings s JOIN many ON many.band = {band}),
                 firsts AS (FROM alike QUALIFY row_number() OVER (PARTITION BY band ORDER BY ord) <= {_MOST})
            SELECT s.ord, other.ord, 'tracing' FROM alike s JOIN firsts other USING (band)
            WHERE other.ord < s.ord AND {apart} <= {SAME_BITS}""")
    pairs = db.sql("SELECT ord, other, min(how) AS how FROM pairs GROUP BY ALL").to_arrow_table()
    db.register("joined", _joined(pairs))
    db.execute(
        """CREATE TABLE same AS
           SELECT i.record_id, f.record_id AS same_as, joined.how FROM joined
           JOIN (SELECT record_id, file_row_number AS ord FROM read_parquet($index, file_row_number = true)) i USING (ord)
           JOIN (SELECT record_id, file_row_number AS ord FROM read_parquet($index, file_row_number = true)) f
               ON f.ord = joined.root""",
        {"index": index},
    )


def _joined(pairs: pa.Table) -> pa.Table:
    """Return (ord, root, how) for all but the first record of each group that pairs connect; ``how`` may be of a neighbour."""
    one, other = pairs["ord"].to_numpy(), pairs["other"].to_numpy()
    ords, places = np.unique(np.concatenate([one, other]), return_inverse=True)
    edges = coo_array((np.ones(len(one)), (places[: len(one)], places[len(one) :])), shape=(len(ords),) * 2)
    _, group = connected_components(edges, directed=False)
    root = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(root, group, ords)
    by_bytes = np.zeros(len(ords), bool)
    is_bytes = np.array(pairs["how"].to_pylist(), dtype=object) == "bytes"
    by_bytes[places[: len(one)][is_bytes]] = True
    later = ords != root[group]
    how = np.where(by_bytes, "bytes", "tracing")[later]
    return pa.table({"ord": ords[later], "root": root[group][later], "how": pa.array(how, pa.string())})


def _enter(db: duckdb.DuckDBPyConnection, forgotten: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    """Make ``entered`` of what comes in, and put the forgotten among it into ``left_out``."""
    db.register("forgotten_record", pa.table({"id": pa.array(forgotten[0], pa.string())}))
    db.register("forgotten_patient", pa.table({"id": pa.array(forgotten[1], pa.string())}))
    tombstone = "record_id IN (FROM forgotten_record) OR coalesce(patient_key IN (FROM forgotten_patient), false)"
    db.execute(f"""
        CREATE TABLE entered AS
        SELECT {_COLUMNS}, hash(record_id) AS h, {tombstone if any(forgotten) else "false"} AS forgotten FROM incoming""")
    db.execute("""INSERT INTO left_out SELECT run, shard, "row", 'forgotten' FROM entered WHERE forgotten""")


def _supersede(db: duckdb.DuckDBPyConnection) -> None:
    """Make ``twice``, the last run of what is in several, and put what lost into ``left_out``."""
    db.execute("""
        CREATE VIEW candidates AS
        SELECT *, hash(record_id) AS h FROM base UNION ALL SELECT * EXCLUDE forgotten FROM entered WHERE NOT forgotten""")
    db.execute("""
        CREATE TABLE twice AS SELECT h, max(run) AS run FROM candidates
        WHERE h IN (SELECT h FROM entered) GROUP BY h HAVING count(*) > 1""")
    db.execute("""
        INSERT INTO left_out SELECT c.run, shard, "row", 'superseded'
        FROM candidates c JOIN twice t ON t.h = c.h AND t.run > c.run""")


def _base(db: duckdb.DuckDBPyConnection, base: tuple[Folder, Mapping[str, str]] | None) -> None:
    """Make ``base``, the rows of the version that is built upon, and add those that it had left out."""
    if base is None:
        db.execute("CREATE TABLE base AS SELECT * EXCLUDE (h, forgotten) FROM entered WHERE false")
        return
    folder, paths = base
    spelt = path_namer(db, folder)
    held = db.read_parquet(literal(spelt(paths[INDEX])))
    if "t0" not in held.columns:  # of a release that told duplicates by their bytes alone
        held = held.project("*, " + ", ".join(f"NULL::UBIGINT AS t{k}" for k in range(4)))
    held.create_view("base")
    db.read_parquet(literal(spelt(paths[LEFT_OUT]))).insert_into("left_out")


def _counts(db: duckdb.DuckDBPyConnection, index: str, duplicates: str) -> dict[str, int]:
    rows = db.execute(
        """SELECT count(*), count(*) FILTER (scored), count(*) FILTER (NOT scored),
                  (SELECT count(*) FROM left_out WHERE why = 'superseded'),
                  (SELECT count(*) FROM left_out WHERE why = 'forgotten'),
                  (SELECT count(*) FROM read_parquet($duplicates))
           FROM read_parquet($index)""",
        {"index": index, "duplicates": duplicates},
    ).fetchall()
    return dict(zip(("records", "scored", "rejected", "superseded", "forgotten", "duplicates"), rows[0], strict=True))
