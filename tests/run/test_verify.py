"""A single flipped byte anywhere in a published run is found, what is damaged is made again byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.cli import main
from screening.errors import UserError
from screening.model.bundle import Bundle
from screening.run.forget import forget_in_runs
from screening.run.ledger import finished_shards, is_sealed, read_manifest, write_manifest
from screening.run.plan import load_plan, plan_bytes, read_shard, slice_names
from screening.run.repair import repair
from screening.run.sealed import footer_of, is_whole, results_bytes
from screening.run.verify import faults, rescore
from screening.settings import RunSettings
from screening.storage import Folder
from tests.bundles import make_bundle
from tests.published import publish_run, write_catalog
from tests.run.by_hand import run_by_hand

SETTINGS = RunSettings(attribution="flagged", donors=4, donor_set=8, shard_records=8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny", threshold=0.35)


@pytest.fixture(scope="module")
def archive(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy with a record that cannot be scored."""
    folder = tmp_path_factory.mktemp("archive") / "ecg"
    shutil.copytree(ptbxl, folder)
    next(folder.rglob("*_hr.dat")).write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def made(archive: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a catalog and the runs folder of one published run."""
    folder = tmp_path_factory.mktemp("made")
    build_catalog(str(archive), str(folder / "catalog"), deidentified=True)
    run_by_hand(folder / "catalog", folder / "runs", bundle, SETTINGS)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Folder:
    """Return a copy of the published run, to be damaged."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    return Folder(str(next((tmp_path / "runs").glob("*/manifest.json")).parent))


def files_of(run: Folder) -> list[Path]:
    runs = Path(run.url).parent
    found = [path for path in sorted(runs.rglob("*")) if path.is_file() and not path.name.startswith("index-")]
    return [path for path in found if path.parent.name != "lease"]


def flip(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_a_whole_run_has_no_faults_and_comes_out_again(run: Folder) -> None:
    assert list(faults(run)) == []
    again = rescore(run, range(0, 64, 3))
    assert (again.same, again.gone, again.faults) == (22, 0, ())


def test_every_byte_of_the_manifest_counts(run: Folder) -> None:
    data = run.read("manifest.json")
    assert is_sealed(data)
    for at in range(len(data)):
        assert not is_sealed(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]), at
    assert not is_sealed(data + b"\n")
    assert not is_sealed(b"[1]")


def test_a_flipped_byte_in_any_file_is_found(run: Folder) -> None:
    draw = random.Random(5)
    files = files_of(run)
    assert {"manifest.json", "plan.json", "records-00000.parquet", "locations-00000.parquet", "part-00003.parquet"} <= {
        path.name for path in files
    }
    assert {".safetensors", ".md"} <= {path.suffix for path in files}
    for path in files:
        whole = path.read_bytes()
        for _ in range(3):
            flip(path, draw.randrange(len(whole)), draw.randrange(8))
            assert list(faults(run)), path
            path.write_bytes(whole)
    assert list(faults(run)) == []


def test_what_is_gone_added_or_cut_is_named(run: Folder) -> None:
    part = Path(run.url) / "results" / "part-00002.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    assert [str(fault) for fault in faults(run)] == [
        "results/part-00002.parquet: its SHA-256 differs from the manifest's"
    ]
    part.unlink()
    assert [str(fault) for fault in faults(run)] == ["results/part-00002.parquet: is gone"]
    part.write_bytes(whole)
    run.write("results/part-00099.parquet", whole)
    run.write("notes.txt", b"x")
    assert [str(fault) for fault in faults(run)] == [
        "notes.txt: is no part of the run",
        "results/part-00099.parquet: is no part of the run",
    ]
    with pytest.raises(UserError, match=r"is not a run: it holds no plan\.json"):
        list(faults(Folder(str(part.parent))))


def test_a_model_or_donors_that_are_gone_or_damaged_are_named(run: Folder) -> None:
    plan, runs = load_plan(run), Path(run.url).parent
    donors, model = plan.donor_set or "", plan.model["bundle_sha256"]
    flip(runs / "donors" / f"{donors}.safetensors", 200, 3)
    (damaged,) = faults(run)
    assert damaged.name == f"../donors/{donors[:12]}"
    shutil.rmtree(runs / "models" / model)
    assert [str(fault) for fault in faults(run)] == [f"../models/{model[:12]}: is gone", str(damaged)]


def rewrite(run: Folder, shard: int, table: pa.Table) -> None:
    """Put another table in place of a shard's and state it in a manifest that is sealed anew."""
    name = f"results/part-{shard:05d}.parquet"
    run.write(name, results_bytes(table, footer=footer_of(run.read(name)) or {}))
    manifest = read_manifest(run) or {}
    found = finished_shards(run, load_plan(run))
    manifest["files"][shard]["sha256"] = found[shard].sha256
    write_manifest(run, manifest)


def test_results_without_a_seal_are_named(run: Folder) -> None:
    name = "results/part-00001.parquet"
    table = pq.read_table(run.path(name))  # its seal with it, which is no more that of the bytes
    pq.write_table(table, run.path(name))
    manifest = read_manifest(run) or {}
    manifest["files"][1]["sha256"] = hashlib.sha256(run.read(name)).hexdigest()
    write_manifest(run, manifest)
    assert [str(fault) for fault in faults(run)] == [f"{name}: its footer does not seal it"]


def test_rows_that_were_written_wrongly_are_found_though_every_hash_agrees(run: Folder) -> None:
    name = run.path("results/part-00001.parquet")
    table = pq.read_table(name).replace_schema_metadata(None)
    other = pq.read_table(run.path("results/part-00002.parquet")).replace_schema_metadata(None)

    twice = pa.concat_tables([table.slice(0, 7), other.slice(0, 1)])
    rewrite(run, 1, twice)
    assert [str(fault) for fault in faults(run)] == [
        "results/part-00001.parquet: its records are not those of shard 1 of the plan"
    ]
    at = table.schema.get_field_index("flagged")
    rewrite(run, 1, table.set_column(at, table.schema.field(at), pa.array([None] * 8, pa.bool_())))
    assert [str(fault) for fault in faults(run)] == ["manifest.json: its counts are not the sums of its files"]
    at = table.schema.get_field_index("logit")
    rewrite(run, 1, table.set_column(at, table.schema.field(at), pa.array([0.5] * 8, pa.float32())))
    assert list(faults(run)) == []
    again = rescore(run, range(8, 16))
    assert again.same == 0
    assert str(again.faults[0]) == "results/part-00001.parquet: row 0 comes out otherwise: logit"


@pytest.fixture
def stated(tmp_path: Path) -> Folder:
    """Return a published run of stated rows, the first and the last of one record: nothing of it was ever decoded."""
    rows = [{"record_id": name} for name in ("r0", "r1", "r2", "r3", "r4", "r0")]
    return publish_run(Folder(str(tmp_path / "runs")), write_catalog(tmp_path / "catalog", rows), "1" * 16)


def of_the_run(run: Folder) -> list[str]:
    """Return the faults of a run of stated rows, which has no model."""
    return [str(fault) for fault in faults(run) if not fault.name.startswith("../models")]


def table_of(run: Folder, shard: int) -> pa.Table:
    return pq.read_table(run.path(f"results/part-{shard:05d}.parquet")).replace_schema_metadata(None)


def test_a_record_that_has_two_rows_is_found_though_the_plan_has_it_twice(stated: Folder) -> None:
    assert of_the_run(stated) == ["results: 1 rows are of records that have another row"]


def test_rows_of_another_run_and_of_other_columns_are_found(stated: Folder) -> None:
    table = table_of(stated, 0)
    at = table.schema.get_field_index("run_id")
    rewrite(stated, 0, table.set_column(at, table.schema.field(at), pa.array(["2" * 16] * 3)))
    assert of_the_run(stated)[0] == "results/part-00000.parquet: rows of it are of another run"
    rewrite(stated, 0, table.drop_columns(["logit"]))
    assert of_the_run(stated)[0] == "results/part-00000.parquet: its columns are not those of the contract"
    rewrite(stated, 0, table.append_column("name", pa.array(["x"] * 3)))
    assert of_the_run(stated)[0] == "results/part-00000.parquet: its columns are not those of the contract"


def test_a_manifest_of_another_run_and_one_that_leaves_files_out_are_found(stated: Folder) -> None:
    whole = read_manifest(stated) or {}
    write_manifest(stated, whole | {"run_id": "2" * 16})
    assert of_the_run(stated) == [f"manifest.json: is of run {'2' * 16}, the plan of run {'1' * 16}"]
    write_manifest(stated, whole | {"files": whole["files"][:1]})
    assert of_the_run(stated) == ["manifest.json: names other files than the 2 shards of the plan"]


def test_the_command_ends_with_1_where_a_byte_is_wrong(stated: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    name = "results/part-00001.parquet"
    flip(Path(stated.path(name)), 100, 0)
    for options in (["--sample", "0"], ["--sample", "0", "--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["verify", stated.url, *options])
        assert ended.value.code == 1
        assert f"{name}: its SHA-256 differs from the manifest's" in capsys.readouterr().out


def test_records_that_changed_since_are_no_faults(run: Folder, archive: Path) -> None:
    changed = sorted(archive.rglob("*_hr.hea"))[9]
    kept = changed.stat()
    try:
        changed.touch()
        again = rescore(run, range(64))
    finally:
        os.utime(changed, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert (again.same, again.gone, again.faults) == (63, 1, ())


def test_repair_makes_every_file_again_byte_for_byte(run: Folder, made: Path, bundle: Bundle) -> None:
    draw = random.Random(7)
    catalog = open_catalog(str(made / "catalog"))
    before = {path: path.read_bytes() for path in files_of(run)}
    for path, whole in before.items():
        flip(path, draw.randrange(len(whole)), draw.randrange(8))
        done = repair(run, catalog=catalog, bundles=[bundle])
        assert done.left == (), path
        if path.name == "manifest.json":
            assert read_manifest(run)["counts"] == json.loads(whole)["counts"]  # type: ignore[index]
            path.write_bytes(whole)  # it states when it was made again
        else:
            assert len(done.files) == 1, path
    assert {path: path.read_bytes() for path in files_of(run)} == before
    assert repair(run).files == ()


@pytest.mark.parametrize("name", ["plan.json", "plan/records-00000.parquet", "plan/locations-00000.parquet"])
def test_damage_of_manifest_and_plan_together_is_not_sealed_by_repair(run: Folder, name: str) -> None:
    """A flipped byte may leave a plan readable, with another place for a record: the manifest is not made from that."""
    flip(Path(run.path("manifest.json")), 50, 0)
    broken = run.read("manifest.json")
    whole = Path(run.path(name)).read_bytes()
    for at in range(4, len(whole), max(1, len(whole) // 12)):
        flip(Path(run.path(name)), at, 0)
        done = repair(run)
        assert done.files == ()
        assert [fault.name for fault in done.left] == ["manifest.json", name], at
        assert run.read("manifest.json") == broken
        Path(run.path(name)).write_bytes(whole)
    assert repair(run).files == ("manifest.json",)


def test_a_plan_that_cannot_tell_whether_it_is_whole_makes_no_manifest(run: Folder) -> None:
    """As those of the first runs are, whose files have no seal."""
    name = "plan/records-00000.parquet"
    table = pq.read_table(run.path(name))
    pq.write_table(table.replace_schema_metadata(None), run.path(name))
    assert is_whole(run.read(name)) is None
    flip(Path(run.path("manifest.json")), 50, 0)
    done = repair(run)
    assert (done.files, [fault.name for fault in done.left]) == ((), ["manifest.json"])


def test_every_byte_of_a_plans_files_counts(run: Folder) -> None:
    plan = load_plan(run)
    for name in slice_names(range(plan.shards)):
        data = run.read(name)
        assert is_whole(data)
        for at in range(0, len(data), 7):
            assert not is_whole(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]), at
    data = run.read("plan.json")
    for at in range(0, len(data), 7):
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        run.write("plan.json", flipped)
        with suppress(UserError):
            assert plan_bytes(load_plan(run)) != flipped, at  # white space, of which no value depends


def test_a_manifest_that_is_made_again_says_what_was_erased(run: Folder) -> None:
    record = read_shard(run, 0)["record_id"][0].as_py()
    forget_in_runs(Folder(str(Path(run.url).parent)), record_ids=[record], at="2026-11-23")
    before = read_manifest(run) or {}
    flip(Path(run.path("manifest.json")), 50, 0)
    repair(run)
    after = read_manifest(run) or {}
    assert after["removed"] == before["removed"] == {"0": 1}
    assert after["forgotten"] == [{"at": "not known", "rows": 1}]
    assert after["counts"] == before["counts"]


@pytest.mark.parametrize("name", ["manifest.json", "plan/locations-00000.parquet"])
def test_an_erasure_does_not_seal_damage(run: Folder, name: str) -> None:
    record = read_shard(run, 0)["record_id"][0].as_py()
    flip(Path(run.path(name)), 50, 0)
    with pytest.raises(UserError, match=r"is damaged.*`screening repair"):
        forget_in_runs(Folder(str(Path(run.url).parent)), record_ids=[record], at="now")
    assert any(fault.name == name for fault in faults(run)) or run.exists("forgetting.json")


def test_repair_says_what_it_cannot_do(run: Folder, archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    Path(run.path("plan/records-00000.parquet")).unlink()
    Path(run.path("results/part-00000.parquet")).unlink()
    done = repair(run, bundles=[bundle])
    assert done.files == ()
    assert [str(fault) for fault in done.left] == [
        "plan/records-00000.parquet: is gone",
        "results/part-00000.parquet: is gone",
    ]
    Path(run.path("manifest.json")).unlink()
    assert any("the run is not published" in fault.what for fault in faults(run))
    with pytest.raises(UserError, match="is not published; `screening run` finishes it"):
        repair(run)


def test_a_flipped_byte_of_an_unpublished_shard_is_not_taken_for_done(run: Folder) -> None:
    plan = load_plan(run)
    path = Path(run.path("results/part-00000.parquet"))
    whole = path.read_bytes()
    assert 0 in finished_shards(run, plan)
    for at in range(0, len(whole), 37):
        assert footer_of(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]) is None, at
    flip(path, len(whole) // 2, 3)
    assert 0 not in finished_shards(run, plan)
