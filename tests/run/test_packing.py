"""Packs are made, renewed, mended and emptied; a run reads from one what it would read from the archive."""

from __future__ import annotations

import io
import json
import multiprocessing
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from screening.archive.build import build_catalog
from screening.archive.catalog import Catalog, open_catalog
from screening.archive.identity import PseudonymKey
from screening.archive.pack import Pack, open_pack
from screening.archive.reader import ArchiveReader
from screening.cli import main
from screening.contract import Reason
from screening.errors import StorageError, UserError
from screening.model.bundle import Bundle
from screening.recording import Rejected
from screening.run import packers, packing
from screening.run.lease import Lease
from screening.run.packing import PackSummary, pack_archive
from screening.run.pipeline import screen
from screening.run.plan import load_plan, read_locations, read_shard
from screening.run.worker import Source, decode_rows
from screening.settings import RunSettings
from screening.signal.preprocess import Preprocessing
from screening.storage import Folder
from tests import corpus
from tests.archive.test_packed import of_all, same
from tests.bundles import make_bundle
from tests.faults.proxy import FaultyProxy
from tests.run.by_hand import run_by_hand
from tests.wfdb_files import ecg, record

SETTINGS = RunSettings(attribution="none", donor_set=4, shard_records=24)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny", threshold=0.35)


@pytest.fixture(scope="module")
def mixed(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the catalog of an archive of real records and of all good and bad cases."""
    at = tmp_path_factory.mktemp("mixed")
    shutil.copytree(ptbxl / "records500", at / "archive" / "records500")
    corpus.write(corpus.all_cases(), at / "archive")
    (at / "archive" / "RECORDS").unlink()
    build_catalog(str(at / "archive"), str(at / "catalog"), deidentified=True)
    return at / "catalog"


def files(folder: Folder, *names: str) -> dict[str, bytes]:
    return {f"{name}/{file}": folder.read(f"{name}/{file}") for name in names for file in folder.names(name)}


def pack_at(folder: Folder, catalog: Catalog) -> Pack:
    return Pack(folder, open_pack(folder, root_url=catalog.root_url, key_id=catalog.key_id).index)


def held_ids(folder: Folder) -> set[str]:
    """Return the record ids in the parts of a pack."""
    parts = [folder.path(name) for name in folder.names() if name.startswith("part-")]
    return {name for part in parts for name in pq.read_table(part, columns=["record_id"])["record_id"].to_pylist()}


# --- Runs ------------------------------------------------------------------------------------------------------------


def test_a_run_from_a_pack_is_the_run_from_the_archive_byte_for_byte(
    mixed: Path, bundle: Bundle, tmp_path: Path
) -> None:
    pack = Folder(str(tmp_path / "pack"))
    summary = pack_archive(open_catalog(str(mixed)), pack)
    assert summary.packed > 100
    with_, without = (
        run_by_hand(mixed, tmp_path / name, bundle, SETTINGS, packed=packed)
        for name, packed in (("with", pack), ("without", None))
    )
    assert with_.url.rsplit("/", 1)[-1] == without.url.rsplit("/", 1)[-1]
    assert files(with_, "results", "plan") == files(without, "results", "plan")
    assert with_.read("plan.json") == without.read("plan.json")


def decoded(run: Folder, packed: Folder, archived: dict[int, bytes]) -> Counter[str]:
    """Return how many records of a run a pack gives, and compare all shards with those that the archive gave."""
    plan, tally = load_plan(run), Counter[str]()
    ref = open_pack(packed, root_url=plan.archive_url, key_id=plan.key_id)
    for shard in range(plan.shards):
        source = Source(run, plan, Preprocessing(), {}, packed=ref)
        table = decode_rows(source, read_shard(run, shard), read_locations(run, shard), tally=tally)
        if shard not in archived:
            source = Source(run, plan, Preprocessing(), {})
            archived[shard] = arrow_bytes(decode_rows(source, read_shard(run, shard), read_locations(run, shard)))
        assert arrow_bytes(table) == archived[shard]
    return tally


def arrow_bytes(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def test_damage_is_counted_and_mended(mixed: Path, bundle: Bundle, tmp_path: Path) -> None:
    catalog, pack = open_catalog(str(mixed)), Folder(str(tmp_path / "pack"))
    first = pack_archive(catalog, pack)
    run = run_by_hand(mixed, tmp_path / "runs", bundle, SETTINGS)
    archived: dict[int, bytes] = {}
    whole = decoded(run, pack, archived)
    assert 0.95 * first.packed < whole["packed"] <= first.packed  # single rows at the ends of shards are left
    assert not whole["damaged"]
    part = max((name for name in pack.names() if name.startswith("part-")), key=lambda name: len(pack.read(name)))
    data = bytearray(pack.read(part))
    data[len(data) // 2] ^= 4
    pack.write(part, bytes(data))
    readable = first.packed - 32
    damaged = decoded(run, pack, archived)
    assert 0 < damaged["damaged"] <= 32
    assert damaged.total() == whole.total()
    assert pack_archive(catalog, pack).added == 0
    mended = pack_archive(catalog, pack, check=True)
    assert (mended.packed, mended.added) == (first.packed, first.packed - readable)
    again = decoded(run, pack, archived)
    assert 0.95 * first.packed < again["packed"]
    assert not again["damaged"]
    assert part not in pack.names()
    pack.remove(next(name for name in pack.names() if name.startswith("part-")))
    assert pack_archive(catalog, pack, check=True).packed == first.packed


@pytest.mark.usefixtures("ray_here")
def test_an_interrupted_run_goes_on_from_a_pack(
    ptbxl: Path, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCREENING_STATE", str(tmp_path / "state"))
    catalog, runs, pack = str(tmp_path / "catalog"), str(tmp_path / "runs"), str(tmp_path / "pack")
    build_catalog(str(ptbxl), catalog, deidentified=True)
    settings = RunSettings(attribution="none", shard_records=16)
    before = screen(catalog, runs, model_path=str(bundle.path), settings=settings)
    assert (before.packed, before.damaged) == (0, 0)
    run = Folder(before.url)
    published = files(run, "results", "plan")
    run.remove("manifest.json")
    for shard in (1, 2):
        run.remove(f"results/part-{shard:05d}.parquet")
    with pytest.raises(SystemExit) as ended:
        main(["pack", "--catalog", catalog, "--out", pack])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith("64 of 64 records are packed: ")
    assert told.endswith(f"Next: screening run --catalog {catalog} --out runs --packed {pack}\n")
    log = [json.loads(line) for line in (tmp_path / "state" / "audit.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in log] == ["pack.started", "pack.made"]
    assert log[1]["what"] | {"bytes": 0} == {
        "catalog": catalog, "pack": pack, "packed": 64, "added": 64, "dropped": 0, "left": 0, "bytes": 0
    }  # fmt: skip
    resumed = ["run", "--catalog", catalog, "--out", runs, "--model", str(bundle.path), "--attribution", "none"]
    with pytest.raises(SystemExit) as ended:
        main([*resumed, "--packed", pack, "--json"])
    after = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0, after
    assert (after["run_id"], after["packed"], after["packed_damaged"]) == (before.run_id, 32, 0)
    assert files(run, "results", "plan") == published


# --- Renewal ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return an archive of forty short records, two of which cannot be read."""
    for number in range(40):
        add(tmp_path / "archive", number)
    (tmp_path / "archive" / "r7" / "r.dat").write_bytes(b"short")
    (tmp_path / "archive" / "r8" / "r.dat").unlink()
    return tmp_path / "archive"


def add(archive: Path, number: int, *, seed: int | None = None) -> None:
    (archive / f"r{number}").mkdir(parents=True, exist_ok=True)
    for file, data in record(digital=ecg(600, seed=number if seed is None else seed)).items():
        (archive / f"r{number}" / file).write_bytes(data)


def renewed(archive: Path, **options: Any) -> tuple[Catalog, Folder, PackSummary]:
    """Scan and pack again."""
    catalog, pack = archive.parent / "catalog", Folder(str(archive.parent / "pack"))
    build_catalog(str(archive), str(catalog), deidentified=True)
    return open_catalog(str(catalog)), pack, pack_archive(open_catalog(str(catalog)), pack, **options)


def check(catalog: Catalog, pack: Folder, *, not_packed: set[str]) -> None:
    """Compare all that a pack gives with the archive."""
    known, reader = of_all(catalog), ArchiveReader(catalog.root_url)
    ids, versions = list(known), [version for version, _ in known.values()]
    held = pack_at(pack, catalog)
    found = dict(zip(ids, held.read(held.find(ids, versions), ids, versions, pool=None), strict=True))
    assert {name for name in ids if found[name] is None} == not_packed
    for name in set(ids) - not_packed:
        assert same(found[name], reader.read(known[name][1], name, version=known[name][0])), name


def test_packing_again_reads_what_is_new_or_changed_and_drops_what_is_gone(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, pack, first = renewed(archive)
    assert (first.catalogued, first.packed, first.added, first.dropped, first.left) == (40, 39, 39, 0, 1)
    check(catalog, pack, not_packed={"r8/r"})
    before = {name: pack.read(name) for name in pack.names() if name != "lease"}
    assert all(Path(pack.path(name)).stat().st_mode & 0o777 == 0o600 for name in before)
    catalog, pack, again = renewed(archive)
    assert (again.packed, again.added, again.dropped) == (39, 0, 0)
    assert {name: pack.read(name) for name in pack.names() if name != "lease"} == before

    add(archive, 40)
    add(archive, 3, seed=99)
    catalog, pack, more = renewed(archive)
    assert (more.packed, more.added, more.dropped) == (40, 2, 1)
    assert more.parts == 2
    assert not set(before) & set(pack.names()) - {"pack.json"}  # the part with the changed record was written anew
    check(catalog, pack, not_packed={"r8/r"})

    shutil.rmtree(archive / "r5")
    add(archive, 8)
    catalog, pack, less = renewed(archive)
    assert (less.packed, less.added, less.dropped, less.left) == (40, 1, 1, 0)
    assert held_ids(pack) == {f"r{number}/r" for number in range(41)} - {"r5/r"}


def test_records_that_are_rejected_for_good_are_not_read_again(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (archive / "r9" / "r.hea").write_bytes(b"no header")
    _, _, first = renewed(archive)
    assert (first.packed, first.left) == (38, 2)
    asked: list[str] = []
    fetch = ArchiveReader.fetch

    def noted(self: ArchiveReader, location: str, record_id: str, **more: Any) -> Any:
        asked.append(record_id)
        return fetch(self, location, record_id, **more)

    monkeypatch.setattr(ArchiveReader, "fetch", noted)
    renewed(archive)
    assert asked == ["r8/r"]  # its file is absent, and may come


def test_what_ran_out_of_time_is_left_to_the_archive(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are a run's, and not the record's."""
    decode = packers.Decoder.decode

    def slow(self: packers.Decoder, record_id: str, *fetched: Any) -> Any:
        late = Rejected(record_id, Reason.TOO_LARGE, "decoding takes more than 30 s")
        return late if record_id == "r4/r" else decode(self, record_id, *fetched)

    monkeypatch.setattr(packers.Decoder, "decode", slow)
    _, pack, summary = renewed(archive)
    assert (summary.packed, summary.left) == (38, 2)
    assert not held_ids(pack) & {"r4/r", "r8/r"}


def test_an_interrupted_packing_goes_on(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, done = packers.write_part, []

    def failing(job: packers.Job) -> packers.Written:
        if len(done) == 2:
            raise StorageError("no answer from storage, 5 times")
        done.append(job)
        return write(job)

    monkeypatch.setattr(packers, "write_part", failing)
    monkeypatch.setattr(packing, "SMALLEST_PART", 1)
    with pytest.raises(StorageError, match="no answer from storage"):
        renewed(archive, part_bytes=100_000)
    monkeypatch.setattr(packers, "write_part", write)
    pack = Folder(str(archive.parent / "pack"))
    stray = "part-000000000000.parquet"
    pack.write(stray, b"of a packing that was killed")
    halfway = json.loads(pack.read("pack.json"))["rows"]
    assert 0 < halfway < 39
    catalog, pack, summary = renewed(archive, part_bytes=100_000)
    assert (summary.packed, summary.added) == (39, 39 - halfway)
    assert stray not in pack.names()
    check(catalog, pack, not_packed={"r8/r"})


def test_one_packs_at_a_time(archive: Path) -> None:
    with (
        Lease(Folder(str(archive.parent / "pack")), beat_s=0.1),
        pytest.raises(UserError, match=r"pack is being packed by process \d+ on .*; wait for it to end"),
    ):
        renewed(archive)


def test_another_reader_makes_the_pack_anew(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, pack, _ = renewed(archive)
    before = set(pack.names())
    monkeypatch.setattr(packing, "READING", 0)
    _, _, summary = renewed(archive)
    assert summary.added == 39
    assert set(pack.names()) & before == {"lease", "pack.json"}


def test_the_pack_of_another_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    _, pack, _ = renewed(archive)
    before = {name: pack.read(name) for name in pack.names() if name != "lease"}
    shutil.copytree(archive, tmp_path / "elsewhere")
    build_catalog(str(tmp_path / "elsewhere"), str(tmp_path / "other"), deidentified=True)
    with pytest.raises(UserError, match="is the pack of another archive"):
        pack_archive(open_catalog(str(tmp_path / "other")), pack)
    with pytest.raises(UserError, match="is the pack of another archive"):
        screen(
            str(tmp_path / "other"),
            str(tmp_path / "runs"),
            model_path=str(make_bundle(tmp_path / "b").path),
            packed=pack.url,
        )
    assert {name: pack.read(name) for name in pack.names() if name != "lease"} == before
    assert b"elsewhere" not in b"".join(before.values())
    assert str(archive).encode() not in b"".join(before.values())


def test_a_record_that_ends_its_process_costs_no_more_than_itself(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes are killed from outside, as one would be by a decoder that hangs in native code."""
    killed: list[int] = []
    over = threading.Event()

    def kill_the_first() -> None:
        while not killed and not over.is_set():
            for process in multiprocessing.active_children():
                process.kill()
                killed.append(process.pid or 0)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    try:
        catalog, pack, summary = renewed(archive, workers=1)
    finally:
        over.set()
        killer.join()
    assert killed
    assert summary.packed == 39
    check(catalog, pack, not_packed={"r8/r"})


# --- Erasure ---------------------------------------------------------------------------------------------------------


def test_forget_reaches_a_pack(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(40):
        header = archive / f"r{number}" / "r.hea"
        header.write_bytes(header.read_bytes() + f"#subject_id: P{number // 2}\n".encode())
    key, catalog, pack = PseudonymKey.of(b"k" * 32), str(tmp_path / "catalog"), Folder(str(tmp_path / "pack"))
    build_catalog(str(archive), catalog, key=key)
    pack_archive(open_catalog(catalog), pack)
    (tmp_path / "runs").mkdir()
    rows = [row for b in open_catalog(catalog).iter_batches() for row in b.to_pylist()]
    of_patient = [row["record_id"] for row in rows if row["patient_key"] == rows[0]["patient_key"]]
    assert len(of_patient) == 2
    (of_r8,) = {row["record_id"] for row in rows} - held_ids(pack)
    shared = ["--catalog", catalog, "--runs", str(tmp_path / "runs"), "--pseudonyms", "--why", "x", "--yes"]
    forget = ["forget", rows[0]["patient_key"], *shared, "--packed"]
    with pytest.raises(SystemExit) as ended:
        main([*forget, str(tmp_path / "nowhere")])
    assert ended.value.code == 1
    assert "Error: there is no pack at" in capsys.readouterr().err
    assert open_catalog(catalog).records == 40
    with pytest.raises(SystemExit) as ended:
        main([*forget, pack.url])
    assert ended.value.code == 0
    assert "2 rows of the pack" in capsys.readouterr().out
    assert held_ids(pack) == {row["record_id"] for row in rows} - {*of_patient, of_r8}
    assert len(held_ids(pack)) == json.loads(pack.read("pack.json"))["rows"] == 37
    # Whoever forgot to name the pack is helped by the next night.
    build_catalog(str(archive), catalog, key=key)
    with pytest.raises(SystemExit):
        main(["forget", rows[5]["patient_key"], *shared])
    assert pack_archive(open_catalog(catalog), pack).dropped == 2


# --- Reading ---------------------------------------------------------------------------------------------------------


def test_a_group_is_read_for_one_in_eight_of_its_rows(archive: Path) -> None:
    catalog, pack, _ = renewed(archive)
    known = of_all(catalog)
    held = pack_at(pack, catalog)
    names = sorted(known, key=lambda name: next(iter(held.find([name] * 9, [known[name][0]] * 9))))
    names = [name for name in names if name != "r8/r"][:32]  # of the first group

    def found(count: int) -> Iterator[bool]:
        some = names[:count]
        return (row >= 0 for row in held.find(some, [known[name][0] for name in some]))

    assert not any(found(3))
    assert all(found(4))


def test_a_pack_on_an_object_store_costs_few_reads(ptbxl: Path, s3: dict[str, Any], tmp_path: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("s3", **s3)
    fs.put(str(ptbxl / "records500"), "screening/archive/records500", recursive=True)
    build_catalog("s3://screening/archive", str(tmp_path / "catalog"), deidentified=True, storage_options=s3)
    catalog, pack = open_catalog(str(tmp_path / "catalog")), Folder("s3://screening/pack", s3)
    assert pack_archive(catalog, pack, storage_options=s3).packed == 64
    assert pack_archive(catalog, pack, storage_options=s3).added == 0
    known = of_all(catalog)
    ids, versions = list(known), [version for version, _ in known.values()]
    with FaultyProxy(s3["endpoint_url"]) as proxy:
        through = {**s3, "endpoint_url": proxy.url}
        held = pack_at(Folder("s3://screening/pack", through), catalog)
        proxy.done.clear()
        with ThreadPoolExecutor(4) as pool:
            outcomes = list(held.read(held.find(ids, versions), ids, versions, pool=pool))
        assert proxy.requests <= 4  # for 64 records, a footer among them
    reader = ArchiveReader("s3://screening/archive", s3)
    for name, outcome in zip(ids[:8], outcomes, strict=False):
        assert same(outcome, reader.read(known[name][1], name, version=known[name][0]))
    assert not any(outcome is None for outcome in outcomes)
