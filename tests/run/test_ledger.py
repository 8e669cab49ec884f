from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from screening import storage
from screening.contract import result_schema
from screening.errors import UserError
from screening.run import ledger
from screening.run.lease import Holder, Lease
from screening.run.plan import Plan, load_plan, plan_bytes, results_name, write_slices
from screening.run.sealed import results_bytes
from screening.storage import Folder
from tests.published import write_catalog

PLAN = Plan(
    run_id="0123456789abcdef",
    archive_url="/archive",
    catalog_id="c",
    key_id=None,
    records=5,
    shards=2,
    shard_records=3,
    model={"name": "m", "version": "1", "bundle_sha256": "b", "input_contract_sha256": "i"},
    donor_set=None,
    settings={"attribution": "none"},
    quality={},
    fingerprint={},
)


def write_shard(run: Folder, plan: Plan, shard: int, rows: int) -> ledger.ShardSummary:
    table = result_schema().empty_table()
    filled = pa.table({f.name: pa.nulls(rows, f.type) for f in result_schema()}, schema=table.schema)
    facts = {"shard": shard, "rows": rows, "scored": rows - 1, "flagged": 0, "explained": 0, "reasons": {"noise": 1}}
    data = results_bytes(filled, footer=ledger.footer(plan, facts))
    run.write(results_name(shard), data)
    return ledger.finished_shards(run, plan).get(shard)  # type: ignore[return-value]


def write_plan(run: Folder) -> None:
    run.write("plan.json", plan_bytes(PLAN))
    write_slices(run, write_catalog(f"{run.url}-catalog", [{"record_id": f"r{n}"} for n in range(5)]), 3)


def test_a_shard_is_done_when_its_file_is_whole_and_of_this_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Folder(str(tmp_path))
    assert ledger.finished_shards(run, PLAN) == {}
    assert write_shard(run, PLAN, 0, 3).reasons == {"noise": 1}
    assert write_shard(run, PLAN, 1, 3) is None  # the last shard of this plan has two rows
    assert write_shard(run, replace(PLAN, run_id="another"), 1, 2) is not None
    assert set(ledger.finished_shards(run, PLAN)) == {0}

    whole = (tmp_path / results_name(0)).read_bytes()
    (tmp_path / results_name(0)).write_bytes(whole[:-5])
    assert ledger.finished_shards(run, PLAN) == {}
    (tmp_path / results_name(0)).write_bytes(b"")
    assert ledger.finished_shards(run, PLAN) == {}
    (tmp_path / results_name(1)).write_bytes(whole)  # a copy under another shard's name
    assert ledger.finished_shards(run, PLAN) == {}

    (tmp_path / results_name(0)).write_bytes(whole)
    assert set(ledger.finished_shards(run, PLAN)) == {0}
    monkeypatch.setattr(ledger, "RESULT_SCHEMA_VERSION", ledger.RESULT_SCHEMA_VERSION + 1)  # by an earlier release
    assert ledger.finished_shards(run, PLAN) == {}


def test_publication_wants_every_shard_once(tmp_path: Path) -> None:
    run = Folder(str(tmp_path))
    first = write_shard(run, PLAN, 0, 3)
    with pytest.raises(ValueError, match="only when every shard"):
        ledger.publish(run, PLAN, [first], facts={})
    assert ledger.read_manifest(run) is None
    second = write_shard(run, PLAN, 1, 2)
    write_plan(run)
    manifest = ledger.publish(run, PLAN, [second, first], facts={"seconds": 1.0})
    assert ledger.read_manifest(run) == json.loads(json.dumps(manifest))
    assert manifest["counts"] == {
        "scored": 3,
        "rejected": 2,
        "flagged": 0,
        "explained": 0,
        "reasons": {"noise": 2},
        "planned": 5,
    }
    assert [file["rows"] for file in manifest["files"]] == [3, 2]


def test_names_are_on_the_disk_before_a_manifest_names_them_and_its_own_before_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Folder(str(tmp_path))
    write_plan(run)
    done = [write_shard(run, PLAN, 0, 3), write_shard(run, PLAN, 1, 2)]
    told: list[str] = []
    replace_file = os.replace
    monkeypatch.setattr(storage, "sync_folder", lambda path: told.append(Path(path).name))
    monkeypatch.setattr(os, "replace", lambda old, new: (told.append(Path(new).name), replace_file(old, new)))
    ledger.publish(run, PLAN, done, facts={})
    assert told == [tmp_path.name, "plan", "results", "manifest.json", tmp_path.name]


def test_publication_removes_what_killed_writers_left(tmp_path: Path) -> None:
    run = Folder(str(tmp_path))
    write_plan(run)
    done = [write_shard(run, PLAN, 0, 3), write_shard(run, PLAN, 1, 2)]
    left = [".plan.json.0a.tmp", "plan/.records-00000.parquet.0b.tmp", "results/.part-00001.parquet.0c.tmp"]
    for name in (*left, "results/notes.txt"):
        (tmp_path / name).write_bytes(b"half")
    ledger.publish(run, PLAN, done, facts={})
    assert not any((tmp_path / name).exists() for name in left)
    assert (tmp_path / "results" / "notes.txt").exists()


def test_a_run_whose_plan_was_damaged_on_the_way_is_not_published(tmp_path: Path) -> None:
    run = Folder(str(tmp_path / "run"))
    write_plan(run)
    done = [write_shard(run, PLAN, 0, 3), write_shard(run, PLAN, 1, 2)]
    name = "plan/locations-00000.parquet"
    whole = run.read(name)
    for bad in (whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], b""):
        run.write(name, bad)
        with pytest.raises(UserError, match=f"{name} of .* was damaged while the run was made; remove the run and"):
            ledger.publish(run, PLAN, done, facts={})
    assert not run.exists("manifest.json")


def test_a_folder_without_a_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run: it holds no plan\.json; name a folder RUNS/<run_id>"):
        load_plan(Folder(str(tmp_path)))


def hold(url: str, ready: object, seconds: float) -> None:
    with Lease(Folder(url), expiry_s=20.0, beat_s=0.1):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(seconds)


@pytest.fixture(params=["local", "memory"])
def run_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path.name}/run")


def test_a_second_runner_is_refused_with_who_holds_it_and_served_when_it_ends(run_folder: Folder) -> None:
    with (
        Lease(run_folder, expiry_s=20.0, beat_s=0.1),
        pytest.raises(UserError, match=rf"is being run by process {os.getpid()} on \S+; wait for it to end"),
        Lease(run_folder, expiry_s=20.0, beat_s=0.1),
    ):
        pytest.fail("two runners hold one lease")
    with Lease(run_folder, expiry_s=20.0, beat_s=0.1) as lease:
        assert not lease.lost.is_set()


def test_the_lease_of_a_killed_runner_is_taken_over(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(str(tmp_path), ready, 60))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match=f"process {holder.pid} on"), Lease(Folder(str(tmp_path)), expiry_s=20.0):
        pytest.fail("a living runner lost its lease")
    holder.kill()
    holder.join()
    begun = time.monotonic()
    with Lease(Folder(str(tmp_path)), expiry_s=60.0):
        assert time.monotonic() - begun < 30  # a process of this machine is known to be dead: nobody waits


def test_a_silent_runner_elsewhere_loses_its_lease_and_learns_it(run_folder: Folder) -> None:
    """Its host is another, so that only the standing counter tells; no clock of it is read."""
    with Lease(run_folder, expiry_s=0.5, beat_s=60) as silent:
        while not run_folder.exists("lease/epoch-000001.beat"):
            time.sleep(0.01)
        holder = json.loads(run_folder.read("lease/epoch-000001.json")) | {"host": "elsewhere"}
        run_folder.write("lease/epoch-000001.json", json.dumps(holder).encode())
        waited: list[Holder] = []
        with Lease(run_folder, expiry_s=0.5, on_wait=waited.append):
            assert waited[0].host == "elsewhere"
            silent._stop.set()  # wake its thread: it beats once more, late, and must notice
            silent._thread.join()
            silent._stop.clear()
            silent._beat_s = 0.05
            again = threading.Thread(target=silent._beat, daemon=True)
            again.start()
            assert silent.lost.wait(5)


def test_of_many_who_try_at_once_one_gets_the_lease(tmp_path: Path) -> None:
    got: list[str] = []
    refused: list[str] = []
    together, over = threading.Barrier(6), threading.Event()

    def attempt() -> None:
        together.wait()
        try:
            with Lease(Folder(str(tmp_path)), expiry_s=30.0, beat_s=0.1):
                got.append("held")
                over.wait(30)
        except UserError as error:
            refused.append(str(error))
        if len(refused) == 5:
            over.set()

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)
