"""The plan of a run: which records, in which shards, with which model and settings. Written once, never changed.

``RUNS/<run_id>/plan.json`` is written last and so says that the plan is whole. The rows lie in
``plan/records-00000.parquet``, one row group a shard and `SLICE` shards a file, so that a worker reads its own shard only;
where the records lie stands beside it in ``plan/locations-00000.parquet``, readable by the owner alone, because paths
hold names and numbers of patients. Each of these files seals itself, so that damage is told before, and without, a manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from screening.contract import CARRIED_COLUMNS, GAINED_COLUMNS, NOTICE, result_schema, sha256_of
from screening.errors import UserError
from screening.run.sealed import UNSEALED, is_whole, sealed
from screening.settings import RESULT_KEYS, RunSettings
from screening.storage import Folder, forbid_pickled_columns

if TYPE_CHECKING:
    from screening.archive.catalog import Catalog

SLICE = 256
"""Shards a plan file: its footer stays small however many shards there are."""

WRITERS = 2
"""Slices packed at once; each is held in memory, 20 MB at 256 records a shard."""

BEGUN = "begun"

FORGETTING = "forgetting.json"
"""Stands in a run while patients are being erased from it."""

_KINDS = ("records", "locations")
_RECORD_COLUMNS = (*CARRIED_COLUMNS, "bytes", "version")
_GAINED = [name for name in CARRIED_COLUMNS if name in GAINED_COLUMNS]
_FEW_VALUES = ["sex", "site", "device"]


@dataclass(frozen=True)
class Plan:
    """What a run will do; everything in it is JSON."""

    run_id: str
    archive_url: str
    catalog_id: str
    key_id: str | None
    records: int
    shards: int
    shard_records: int
    model: dict[str, str]  # name, version, bundle_sha256, input_contract_sha256
    donor_set: str | None  # SHA-256 that names the set
    settings: dict[str, Any]  # of RESULT_KEYS
    quality: dict[str, float]  # the limits
    fingerprint: dict[str, Any]
    removed: dict[int, int] = field(
        default_factory=dict
    )  # shard -> rows of forgotten patients that are no longer in it

    @property
    def results_identity(self) -> dict[str, str]:
        """The constant columns of every row of the run."""
        return {
            "model_name": self.model["name"],
            "model_version": self.model["version"],
            "bundle_sha256": self.model["bundle_sha256"],
            "input_contract_sha256": self.model["input_contract_sha256"],
            "run_id": self.run_id,
        }

    def shard_rows(self, shard: int) -> int:
        """Return how many records shard number ``shard`` holds."""
        planned = self.records + sum(self.removed.values())
        return min(self.shard_records, planned - shard * self.shard_records) - self.removed.get(shard, 0)


def results_name(shard: int) -> str:
    """Return the name of a shard's results file inside the run."""
    return f"results/part-{shard:05d}.parquet"


def begun_name(shard: int) -> str:
    """Return the name of the mark that stands inside the run while a shard is read and decoded."""
    return f"{BEGUN}/{shard:05d}"


def make_plan(
    catalog: Catalog,
    *,
    model: dict[str, str],
    donor_set: str | None,
    settings: RunSettings,
    quality: dict[str, float],
    shard_records: int,
    fingerprint: dict[str, Any],
) -> Plan:
    """Return the plan for these inputs; nothing is written.

    The same inputs give the same run_id, whatever the shard size or the number of workers. Inputs are all that a row is
    made from: the archive, every column carried from the catalog, the model, the donors, settings and numerics.
    """
    chosen = {key: getattr(settings, key) for key in RESULT_KEYS}
    digest, records = _rows_digest(catalog.iter_batches(list(_RECORD_COLUMNS)))
    if not records:
        raise UserError(f"the catalog {catalog.path} holds no records; make it again with `screening catalog`")
    source = [catalog.root_url, catalog.key_id, catalog.patient_key_id, digest]
    return Plan(
        run_id=sha256_of([source, model, donor_set, chosen, quality, fingerprint])[:16],
        archive_url=catalog.root_url,
        catalog_id=catalog.catalog_id,
        key_id=catalog.key_id,
        records=records,
        shards=-(-records // shard_records),
        shard_records=shard_records,
        model=model,
        donor_set=donor_set,
        settings=chosen,
        quality=quality,
        fingerprint=fingerprint,
    )


def _rows_digest(batches: Iterable[pa.RecordBatch]) -> tuple[str, int]:
    """Return the hash of rows of `_RECORD_COLUMNS`, and how many there are; however the rows are cut into batches.

    Each column is hashed by itself: for each row its length in bytes (-1 where it is null), and the bytes of all values
    behind one another. So the hash tells apart where a value ends, and null from the empty string and from zero.
    """
    hashes = {name: (hashlib.sha256(), hashlib.sha256()) for name in _RECORD_COLUMNS}
    records = 0
    for batch in batches:
        for name, (of_lengths, of_values) in hashes.items():
            lengths, values = _lengths_and_bytes(batch[name])
            of_lengths.update(lengths)
            of_values.update(values)
        records += batch.num_rows
    return sha256_of([[name, *(part.hexdigest() for part in parts)] for name, parts in hashes.items()]), records


def _lengths_and_bytes(column: pa.Array) -> tuple[memoryview, memoryview]:
    """Return the length in bytes of each value (int32, -1 for nulls) and the bytes of all values; nulls have none."""
    present = column.drop_null() if column.null_count else column
    if pa.types.is_string(column.type):
        lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy()
        _, offsets, data = present.buffers()
        if not len(present) or data is None:
            return lengths.data, memoryview(b"")
        ends = np.frombuffer(offsets, np.int32)[present.offset : present.offset + len(present) + 1]
        return lengths.data, memoryview(data)[ends[0] : ends[-1]]
    width = column.type.bit_width // 8  # timestamps and numbers
    lengths = np.where(column.is_valid().to_numpy(zero_copy_only=False), width, -1).astype(np.int32)
    return lengths.data, np.ascontiguousarray(present.to_numpy(zero_copy_only=False)).view(np.uint8).data


def plan_before_erasure(runs: Folder, catalog: Catalog, plan: Plan) -> Plan | None:
    """Return the plan of a run that was begun before patients were forgotten and is, without them, this plan.

    An erasure changes what the same catalog's run is called, but not what is left to be done.
    """
    wanted: tuple[str, int] | None = None
    for name in runs.names():
        if not runs.exists(f"{name}/plan.json"):
            continue
        run = runs.folder(name)
        before = load_plan(run)
        if before.removed and before.records == plan.records and _work(before) == _work(plan):
            wanted = wanted or _rows_digest(catalog.iter_batches(list(_RECORD_COLUMNS)))
            if _rows_digest(_stored_rows(run, before)) == wanted:
                return before
    return None


def _stored_rows(run: Folder, plan: Plan) -> Iterator[pa.RecordBatch]:
    for first in range(0, plan.shards, SLICE):
        whole = read_shards(run, range(first, min(first + SLICE, plan.shards)))
        yield from whole.combine_chunks().to_batches()


def _work(plan: Plan) -> str:
    """Return the hash of all that a run's rows are made from, beside the records."""
    of_rows = {"run_id", "catalog_id", "records", "shards", "shard_records", "removed"}
    return sha256_of({key: value for key, value in asdict(plan).items() if key not in of_rows})


def store_plan(run: Folder, catalog: Catalog, plan: Plan) -> Plan:
    """Return the plan stored in a run's folder, storing this one where there is none; the caller holds the lease."""
    if run.exists("plan.json"):
        return load_plan(run)  # its shards hold, whatever size is asked for today
    write_slices(run, catalog, plan.shard_records)
    run.write("plan.json", plan_bytes(plan))
    return plan


def write_slices(run: Folder, catalog: Catalog, shard_records: int) -> None:
    """Write the files that say which records are in which shard, and where they lie."""
    with ThreadPoolExecutor(WRITERS) as pool:
        waiting: deque[Future[None]] = deque()
        for number, shards in enumerate(_slices(_shards(catalog, shard_records))):
            waiting.append(pool.submit(_write_slice, run, number, shards))
            if len(waiting) > WRITERS:
                waiting.popleft().result()
        for future in waiting:
            future.result()


def plan_bytes(plan: Plan) -> bytes:
    """Return a plan as it stands in plan.json, with the hash of itself."""
    stated = json.loads(json.dumps({**asdict(plan), "notice": NOTICE}))
    return json.dumps({**stated, "sha256": sha256_of(stated)}, indent=1).encode()


def load_plan(run: Folder) -> Plan:
    """Return the plan of a run's folder.

    Raises
    ------
    UserError
        There is no plan there, or it is damaged.
    """
    forbid_pickled_columns()
    try:
        stored = json.loads(run.read("plan.json"))
        seal = stored.pop("sha256", None)  # not in plans of earlier versions
        if seal is not None and seal != sha256_of(stored):
            raise ValueError("it is not as it was written")
        stored.pop("notice")
        removed = {int(shard): rows for shard, rows in stored.pop("removed", {}).items()}
        return Plan(**stored, removed=removed)
    except FileNotFoundError as error:
        raise UserError(f"{run.url} is not a run: it holds no plan.json; name a folder RUNS/<run_id>") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"the plan of {run.url} cannot be read ({error}); start the run again from its catalog"
        ) from error


def slice_names(shards: Collection[int]) -> list[str]:
    """Return the names of the files that hold these shards of a plan."""
    return [_slice_name(kind, number) for number in sorted({shard // SLICE for shard in shards}) for kind in _KINDS]


def damaged_files(run: Folder, plan: Plan, *, unsealed_too: bool = False) -> list[str]:
    """Return the files of a plan that are gone or not as they were written, as far as they tell by themselves.

    Parameters
    ----------
    unsealed_too
        Also those that cannot tell, because an earlier version wrote them.
    """
    found = []
    for name in slice_names(range(plan.shards)):
        try:
            whole = is_whole(run.read(name))
        except FileNotFoundError:
            whole = False
        if whole is False or (unsealed_too and not whole):
            found.append(name)
    if unsealed_too and run.read("plan.json") != plan_bytes(plan):
        found.append("plan.json")
    return found


def rewrite_slices(
    run: Folder, plan: Plan, shards: Collection[int], keep: Callable[[pa.Table], pa.Table]
) -> dict[int, int]:
    """Put ``keep`` of the rows of some shards in their place, and return how many rows each shard of the plan now lacks.

    ``keep`` sees the columns record_id and patient_key; where records lie follows the records.

    Raises
    ------
    UserError
        What is to be rewritten is damaged; written anew it would pass for whole.
    """
    whole = replace(plan, records=plan.records + sum(plan.removed.values()), removed={})
    removed = {shard: rows for shard, rows in plan.removed.items() if shard not in set(shards)}
    for name in slice_names(shards):
        if is_whole(run.read(name)) is False:
            raise UserError(
                f"{name} of {run.url} is damaged, so nothing can be erased from it; `screening repair` the run, or remove "
                "it, and start again"
            )
    for number in sorted({shard // SLICE for shard in shards}):
        tables = []
        of_slice = enumerate(_read_slice(run, "records", number), start=number * SLICE)
        places = _read_slice(run, "locations", number)
        for (shard, records), where in zip(of_slice, places, strict=True):
            table = records.append_column("location", where["location"])
            kept = keep(table) if shard in shards else table
            if shard in shards and kept.num_rows < whole.shard_rows(shard):
                removed[shard] = whole.shard_rows(shard) - kept.num_rows
            tables.append(kept)
        _write_slice(run, number, tables)
    return dict(sorted(removed.items()))


def read_shard(run: Folder, shard: int, *, columns: list[str] | None = None) -> pa.Table:
    """Return shard number ``shard`` of the plan: the carried columns, bytes, version."""
    return _read_group(run, "records", shard, columns)


def iter_shards(run: Folder, plan: Plan, *, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """Yield the number and the rows of every shard of the plan, as `read_shard` gives them, each file opened once."""
    for number in range(-(-plan.shards // SLICE)):
        yield from enumerate(_read_slice(run, "records", number, columns), start=number * SLICE)


def _read_slice(run: Folder, kind: str, number: int, columns: list[str] | None = None) -> Iterator[pa.Table]:
    with run.open(_slice_name(kind, number)) as stream:
        file = pq.ParquetFile(stream)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns)


def read_shards(run: Folder, shards: range, *, columns: list[str] | None = None) -> pa.Table:
    """Return several consecutive shards of one slice (``shards.start // SLICE`` is that of the last) in one table."""
    number = shards.start // SLICE
    with run.open(_slice_name("records", number)) as file:
        return pq.ParquetFile(file).read_row_groups([shard - number * SLICE for shard in shards], columns=columns)


def read_locations(run: Folder, shard: int) -> list[str]:
    """Return where, below the archive's root, the records of a shard lie, in the order of `read_shard`."""
    return [str(place) for place in _read_group(run, "locations", shard, ["location"])["location"].to_pylist()]


def _read_group(run: Folder, kind: str, shard: int, columns: list[str] | None) -> pa.Table:
    number, group = divmod(shard, SLICE)
    with run.open(_slice_name(kind, number)) as file:
        table = pq.ParquetFile(file).read_row_group(group, columns=columns)
    for name in _GAINED if kind == "records" else ():  # a plan of an earlier release
        if name not in table.column_names and (columns is None or name in columns):
            table = table.append_column(name, pa.nulls(table.num_rows, result_schema().field(name).type))
    return table


def _slice_name(kind: str, number: int) -> str:
    return f"plan/{kind}-{number:05d}.parquet"


def _shards(catalog: Catalog, shard_records: int) -> Iterator[pa.Table]:
    """Cut the catalog, in its own order, into tables of ``shard_records`` rows."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in catalog.iter_batches(list(_RECORD_COLUMNS), with_location=True):
        while batch.num_rows:
            taken = batch.slice(0, shard_records - count)
            held.append(taken)
            count += taken.num_rows
            batch = batch.slice(taken.num_rows)
            if count == shard_records:
                yield pa.Table.from_batches(held).combine_chunks()
                held, count = [], 0
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


def _slices(shards: Iterator[pa.Table]) -> Iterator[list[pa.Table]]:
    held: list[pa.Table] = []
    for shard in shards:
        held.append(shard)
        if len(held) == SLICE:
            yield held
            held = []
    if held:
        yield held


def _write_slice(run: Folder, number: int, shards: list[pa.Table]) -> None:
    for kind, columns in (("records", _RECORD_COLUMNS), ("locations", ("location",))):
        file = io.BytesIO()
        schema = shards[0].select(list(columns)).schema.remove_metadata()
        with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=_FEW_VALUES) as writer:
            for shard in shards:
                # A shard of which nothing is left keeps its row group, so that the others keep their numbers.
                writer.write_table(shard.select(list(columns)), row_group_size=max(1, shard.num_rows))
            writer.add_key_value_metadata(UNSEALED)
        run.write(_slice_name(kind, number), sealed(file.getvalue()))
