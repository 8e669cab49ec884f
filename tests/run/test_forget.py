"""A forgotten patient is in no file any more, everything else is as it was, and no later scan or run takes the patient up."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from screening import storage
from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.forget import forget_in_catalog, held_by_catalog
from screening.archive.identity import PseudonymKey
from screening.cli import main
from screening.errors import UserError
from screening.model.bundle import Bundle
from screening.run import current, forget
from screening.run.current import open_current, refresh
from screening.run.forget import forget_in_runs, held_by_runs
from screening.run.lease import Lease
from screening.run.ledger import read_manifest
from screening.run.plan import FORGETTING, load_plan
from screening.run.read import iter_results
from screening.run.repair import repair
from screening.run.verify import faults, rescore
from screening.run.worker import scorer_of
from screening.settings import RunSettings
from screening.storage import Folder
from tests.bundles import make_bundle
from tests.published import publish_run, write_catalog
from tests.run.by_hand import run_by_hand

repairing = importlib.import_module("screening.run.repair")
SECRET = "a secret of more than thirty-two characters"
KEY = PseudonymKey.of(SECRET.encode())
SETTINGS = RunSettings(attribution="flagged", donors=4, donor_set=8, shard_records=8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny", threshold=0.35)


@pytest.fixture(scope="module")
def made(ptbxl: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    build_catalog(str(ptbxl), str(folder / "catalog"), key=KEY)
    run_by_hand(folder / "catalog", folder / "runs", bundle, SETTINGS)
    refresh(Folder(str(folder / "runs")))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "place")
    return tmp_path / "place"


def run_in(place: Path) -> Folder:
    return Folder(str(next((place / "runs").glob("*/plan.json")).parent))


def rows_of(run: Folder) -> pd.DataFrame:
    return pd.concat([table.to_pandas() for table in iter_results(run)]).set_index("record_id")


def everything(place: Path) -> dict[str, bytes]:
    """Return the text of every file, Parquet and safetensors decoded."""
    found = {}
    for path in place.rglob("*"):
        if path.suffix == ".parquet":
            found[str(path.relative_to(place))] = pq.read_table(path).to_pandas().to_csv().encode()
        elif path.is_file():
            found[str(path.relative_to(place))] = path.read_bytes()
    return found


def donors_of(place: Path) -> list[str]:
    (path,) = (place / "runs" / "donors").glob("*.safetensors")
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return list(json.loads(header["__metadata__"]["donors"])["patient_keys"])


def test_a_forgotten_patient_is_in_no_file_and_the_rest_is_as_it_was(place: Path) -> None:
    run, before = run_in(place), rows_of(run_in(place))
    patient = next(key for key in before["patient_key"] if key not in donors_of(place))
    ids = set(before.index[before["patient_key"] == patient])
    assert any(patient.encode() in data for data in everything(place).values())

    forget_in_runs(Folder(str(place / "runs")), record_ids=ids, patient_keys=[patient], at="2026-11-23")
    forget_in_catalog(open_catalog(str(place / "catalog")), patient_keys=[patient])
    pd.testing.assert_frame_equal(rows_of(run), before[before["patient_key"] != patient])
    assert list(faults(run)) == []
    assert (rescore(run, range(0, load_plan(run).records, 5)).faults) == ()
    left = {name for name, data in everything(place).items() if any(i.encode() in data for i in (*ids, patient))}
    # The tombstones, in both versions of the index since.
    assert {name.rsplit("/", 1)[-1] for name in left} == {"catalog.json", "version-000002.json", "version-000003.json"}
    manifest = read_manifest(run) or {}
    assert manifest["forgotten"] == [{"at": "2026-11-23", "rows": len(ids)}]
    assert manifest["counts"]["planned"] == load_plan(run).records == 64 - len(ids)
    index = open_current(Folder(str(place / "runs")))
    assert index is not None
    assert index.counts["records"] == 64 - len(ids)
    assert all(index.locate(record_id) is None for record_id in ids)
    assert index.locate(before.index[-1]) is not None
    assert held_by_runs(Folder(str(place / "runs")), record_ids=ids, patient_keys=[patient]).rows == {}


def test_the_next_scan_and_the_next_run_leave_a_forgotten_patient_out(
    place: Path, ptbxl: Path, bundle: Bundle, tmp_path: Path
) -> None:
    patient = str(rows_of(run_in(place))["patient_key"].iloc[3])
    catalog = open_catalog(str(place / "catalog"))
    gone = [record_id for record_id, _ in held_by_catalog(catalog, patient_keys=[patient])]
    catalog_id = forget_in_catalog(catalog, patient_keys=[patient], record_ids=["of nobody"])
    told = open_catalog(str(place / "catalog")).settings
    renewed = build_catalog(str(ptbxl), str(place / "catalog"), key=KEY)
    assert renewed.records == 64 - len(gone)
    again = open_catalog(str(place / "catalog"))
    assert (again.catalog_id, again.settings) == (catalog_id, told)  # as if the archive had never had them
    assert held_by_catalog(again, patient_keys=[patient]) == []
    assert again.forgotten == (frozenset({"of nobody"}), frozenset({patient}))
    assert again.records == pq.read_metadata(place / "catalog" / "catalog.parquet").num_rows
    # A catalog of its own, in which the patient still is, is planned without by whoever knows of the tombstones.
    build_catalog(str(ptbxl), str(tmp_path / "other"), key=KEY)
    other = open_catalog(str(tmp_path / "other")).without((), [patient])
    found = [row for batch in other.iter_batches(["record_id"], with_location=True) for row in batch.to_pylist()]
    assert len(found) == 64 - len(gone)
    assert not {row["record_id"] for row in found} & set(gone)


def test_donors_are_erased_whole_and_what_they_explained_stays(place: Path) -> None:
    patient = donors_of(place)[0]
    held = forget_in_runs(Folder(str(place / "runs")), patient_keys=[patient], at="now")
    assert len(held.donor_sets) == 1
    assert [path.suffix for path in (place / "runs" / "donors").iterdir()] == [".forgotten"]
    run = run_in(place)
    assert list(faults(run)) == []
    assert rows_of(run)["importance_donors"].notna().any()
    again = rescore(run, range(0, 60, 4))
    assert (again.same, again.faults) == (15, ())
    with pytest.raises(
        UserError, match=r"was erased with a patient in it; what it explained can be read but not made again"
    ):
        scorer_of(Folder(str(place / "runs")), load_plan(run))


@pytest.mark.parametrize("at", ["_rewrite_results", "rewrite_slices", "plan_bytes", "_rewrite_manifest"])
def test_an_interrupted_erasure_is_completed_when_it_is_started_again(
    place: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, before = run_in(place), rows_of(run_in(place))
    patient = str(before["patient_key"].iloc[20])
    work: Callable[..., Any] = getattr(forget, at)

    def killed(*args: Any) -> None:
        if at == "rewrite_slices":
            work(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(forget, at, killed)
        with pytest.raises(KeyboardInterrupt):
            forget_in_runs(Folder(str(place / "runs")), patient_keys=[patient], at="then")
    index = open_current(Folder(str(place / "runs")))
    assert index is not None
    assert patient in index.forgotten_patients
    if run.exists(FORGETTING):
        (fault,) = faults(run)
        assert str(fault).startswith("forgetting.json: an erasure was interrupted; `screening forget`")
        with pytest.raises(UserError, match="was interrupted; complete it with `screening forget`, then repair"):
            repair(run)  # it would bring them back
    # Whoever is forgotten next: what was noted is completed.
    other = str(before["patient_key"].iloc[40])
    forget_in_runs(Folder(str(place / "runs")), patient_keys=[other], at="now")
    pd.testing.assert_frame_equal(rows_of(run), before[~before["patient_key"].isin([patient, other])])
    assert list(faults(run)) == []
    gone = int(before["patient_key"].isin([patient, other]).sum())
    assert sum(entry["rows"] for entry in (read_manifest(run) or {})["forgotten"]) == gone
    left = {name for name, data in everything(place / "runs").items() if patient.encode() in data}
    assert {re.sub("[0-9]+", "N", name) for name in left} == {"current/version-N.json"}


def test_older_versions_of_the_index_go_even_where_the_erasure_was_killed_before(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, patient = Folder(str(place / "runs")), str(rows_of(run_in(place))["patient_key"].iloc[20])

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(current, "_prune", killed)
        with pytest.raises(KeyboardInterrupt):
            forget_in_runs(runs, patient_keys=[patient], at="then")
    assert (place / "runs" / "current" / "version-000001.json").exists()
    forget_in_runs(runs, patient_keys=[patient], at="now")
    assert not (place / "runs" / "current" / "version-000001.json").exists()


def test_what_killed_runners_left_is_erased_too(place: Path) -> None:
    """A half-written file, and the records of a plan that was never finished."""
    run, runs = run_in(place), Folder(str(place / "runs"))
    patient = str(rows_of(run)["patient_key"].iloc[20])
    shutil.copytree(place / "runs" / Path(run.url).name / "plan", place / "runs" / "unfinished" / "plan")
    left = place / "runs" / Path(run.url).name / "results" / ".part-00002.parquet.0a1b2c3d4e5f.tmp"
    left.write_bytes(patient.encode())
    forget_in_runs(runs, patient_keys=[patient], at="now")
    found = {name.rsplit("/", 1)[-1] for name, data in everything(place / "runs").items() if patient.encode() in data}
    assert found == {"version-000002.json", "version-000003.json"}


def test_a_damaged_plan_and_a_folder_that_is_not_there_are_told(place: Path) -> None:
    run = run_in(place)
    run.write("plan/records-00000.parquet", b"PAR1 not any more")
    with pytest.raises(
        UserError, match=r"the plan of .* cannot be read \(ArrowInvalid\), so nothing can be erased from it"
    ):
        held_by_runs(Folder(str(place / "runs")), patient_keys=["x"])
    with pytest.raises(UserError, match="there is no folder .*elsewhere; name the one that was --out"):
        held_by_runs(Folder(str(place / "elsewhere")), patient_keys=["x"])


@pytest.mark.usefixtures("ray_here")
def test_a_run_goes_on_after_an_erasure_as_the_same_run(
    place: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from screening.run import pipeline

    def go(out: str) -> pipeline.RunOutcome:
        return pipeline.screen(str(place / "catalog"), str(place / out), model_path=str(bundle.path), settings=SETTINGS)

    shutil.rmtree(place / "runs")
    run = Folder(go("runs").url)
    before = rows_of(run)
    run.remove("manifest.json")
    run.remove("results/part-00002.parquet")
    patient = next(key for key in before["patient_key"].iloc[16:] if key not in donors_of(place))
    forget_in_runs(Folder(str(place / "runs")), patient_keys=[patient], at="now")
    forget_in_catalog(open_catalog(str(place / "catalog")), patient_keys=[patient])
    outcome = go("runs")
    assert (outcome.url, outcome.published, outcome.already) == (run.url, True, False)
    left = before[before["patient_key"] != patient]
    assert outcome.records == len(left)
    assert rows_of(run).index.tolist() == left.index.tolist()
    assert rows_of(run)["logit"].to_numpy() == pytest.approx(left["logit"].to_numpy(), abs=1e-4, nan_ok=True)
    assert list(faults(run)) == []
    assert go("runs").already  # nor is a published run done again, because somebody is no longer in it

    # Forgotten while the next run is being prepared: nothing of it stays, and it is started again without them.
    plan_it = pipeline.store_plan
    other = str(left["patient_key"].iloc[0])

    def meanwhile(*args: Any) -> Any:
        forget_in_runs(Folder(str(place / "other")), patient_keys=[other], at="now")
        return plan_it(*args)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "store_plan", meanwhile)
        with pytest.raises(
            UserError, match="patients were forgotten while this run was being prepared; start it again"
        ):
            go("other")
    named = {name for name, data in everything(place / "other").items() if other.encode() in data}
    assert {name.split("/")[0] for name in named} == {"current"}
    assert go("other").records == (left["patient_key"] != other).sum()


def test_a_whole_shard_and_an_unpublished_run(place: Path, bundle: Bundle) -> None:
    run = run_in(place)
    before = rows_of(run)
    run.remove("manifest.json")
    run.remove("results/part-00005.parquet")
    keys = sorted(set(before["patient_key"].iloc[16:24]))
    forget_in_runs(Folder(str(place / "runs")), patient_keys=keys, at="now")
    plan = load_plan(run)
    assert plan.shard_rows(2) == 0
    assert plan.records == (~before["patient_key"].isin(keys)).sum()
    assert not run.exists("results/part-00005.parquet")
    assert {
        key for table in iter_results(run, columns=["patient_key"]) for key in table["patient_key"].to_pylist()
    }.isdisjoint(keys)


def test_an_erasure_is_on_the_disk_before_it_counts_as_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it were undone where the power fails, while the audit log says that it was done."""
    runs = Folder(str(tmp_path / "runs"))
    catalog = write_catalog(tmp_path / "catalog", [{"record_id": f"r{n}", "patient_key": f"p{n}"} for n in range(4)])
    run = publish_run(runs, catalog, "one")
    told: list[str] = []
    replace, sync = os.replace, storage.sync_folder

    def replaced(old: str, new: str) -> None:
        told.append(f"wrote {Path(new).name}")
        replace(old, new)

    def synced(path: str) -> None:
        told.append(f"synced {Path(path).name}")
        sync(path)

    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(storage, "sync_folder", synced)
    monkeypatch.setattr(Folder, "remove", lambda _, name: told.append(f"removed {name}"))
    forget_in_runs(runs, patient_keys=["p1"], at="now")
    at = told.index(f"removed {FORGETTING}")
    assert {"synced results", "synced plan", "synced one"} == set(told[at - 3 : at])
    assert {"wrote part-00000.parquet", "wrote records-00000.parquet", "wrote manifest.json"} <= set(told[: at - 3])
    assert run.exists(FORGETTING)


def test_a_run_that_is_being_written_is_not_touched(place: Path) -> None:
    run = run_in(place)
    run.remove("manifest.json")
    patient = str(rows_of(run)["patient_key"].iloc[0])
    with Lease(run, beat_s=0.1), pytest.raises(UserError, match="is being run by process"):
        forget_in_runs(Folder(str(place / "runs")), patient_keys=[patient], at="now")


class Brief(Lease):
    """A lease of a second, so that a test need not wait for half a minute; the last one that was taken is `newest`."""

    newest: Lease

    def __init__(self, run: Folder, **options: Any) -> None:
        super().__init__(run, **{**options, "expiry_s": 1.0, "beat_s": 0.1})

    def __enter__(self) -> Lease:
        Brief.newest = super().__enter__()
        return self

    @classmethod
    def freeze(cls) -> None:
        """Let its owner fall silent, as a suspended machine does."""
        cls.newest._stop.set()
        cls.newest._thread.join()


def test_a_repair_that_was_frozen_does_not_bring_an_erased_patient_back(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wakes between scoring and writing, after another has repaired the run and a patient was erased from it."""
    run, patient = run_in(place), str(rows_of(run_in(place))["patient_key"].iloc[0])
    name = "results/part-00000.parquet"
    data = bytearray(run.read(name))
    data[200] ^= 1
    run.write(name, bytes(data))
    for module in (repairing, forget):
        monkeypatch.setattr(module, "Lease", Brief)
    keep = repairing._keep

    def late(*arguments: Any) -> bool:
        Brief.freeze()
        monkeypatch.setattr(repairing, "_keep", keep)
        assert repair(run).files == (name,)
        forget_in_runs(Folder(str(place / "runs")), patient_keys=[patient], at="now")
        return keep(*arguments)

    monkeypatch.setattr(repairing, "_keep", late)
    with pytest.raises(UserError, match="was taken over by another runner"):
        repair(run)
    assert patient not in set(rows_of(run)["patient_key"])
    assert list(faults(run)) == []


def test_an_erasure_that_was_frozen_undoes_nothing_of_the_next(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, runs = run_in(place), Folder(str(place / "runs"))
    first, second = rows_of(run)["patient_key"].drop_duplicates().iloc[[0, 1]]
    monkeypatch.setattr(forget, "Lease", Brief)
    rewrite_slices = forget.rewrite_slices

    def late(*arguments: Any) -> dict[int, int]:
        Brief.freeze()
        monkeypatch.setattr(forget, "rewrite_slices", rewrite_slices)
        forget_in_runs(runs, patient_keys=[second], at="now")
        return rewrite_slices(*arguments)

    monkeypatch.setattr(forget, "rewrite_slices", late)
    with pytest.raises(UserError, match="was taken over by another runner"):
        forget_in_runs(runs, patient_keys=[first], at="now")
    assert {first, second}.isdisjoint(rows_of(run)["patient_key"])
    assert list(faults(run)) == []


def test_on_an_object_store(s3: dict[str, Any]) -> None:
    runs = Folder("s3://screening/runs", s3)
    rows = [{"record_id": f"r{n}", "patient_key": f"p{n // 2}"} for n in range(8)]
    catalog = write_catalog("s3://screening/catalog", rows, storage_options=s3)
    run = publish_run(runs, catalog, "one")
    forget_in_runs(runs, record_ids=["r6"], patient_keys=["p1"], at="now")
    forget_in_catalog(catalog, record_ids=["r6"], patient_keys=["p1"])
    assert rows_of(run).index.tolist() == ["r0", "r1", "r4", "r5", "r7"]
    assert open_catalog("s3://screening/catalog", storage_options=s3).records == 5
    assert [fault for fault in faults(run) if not fault.name.startswith("../models")] == []


def test_the_command(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "key").chmod(0o600)
    common = ["--catalog", str(place / "catalog"), "--runs", str(place / "runs"), "--key-file", str(tmp_path / "key")]
    common += ["--state", str(tmp_path / "state"), "--why", "objection"]
    raw, patient = "15709", KEY.pseudonym("patient", "15709")

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capsys.readouterr()
        return int(str(end.value.code)), out, err

    check = ["pseudonym", "check", "--catalog", str(place / "catalog"), "--key-file", str(tmp_path / "key")]
    assert call(*check, "--patient", raw)[:2] == (
        0,
        f"Key {KEY.key_id} made the pseudonyms of {place / 'catalog'} (key {KEY.key_id})\nThe patient has 1 records in it\n",
    )
    code, out, err = call("forget", raw, *common, "--yes")
    assert code == 0, err
    assert "1 of 1 patients are in the catalog; 1 of its records are concerned" in out
    assert "Not erased from here: the archive itself, reports" in out
    assert patient not in out + err
    assert call(*check, "--patient", raw)[0] == 1
    code, out, _ = call("audit", "show", "--state", str(tmp_path / "state"), "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == ["patients.forget_started", "patients.forgotten"]
    assert raw not in out
    assert events[0]["what"]["patient_keys"] == [patient]
    assert call("audit", "verify", "--state", str(tmp_path / "state"), "--at-least", "2")[0] == 0
    assert call("audit", "verify", "--state", str(tmp_path / "state"), "--at-least", "3")[0] == 1

    (tmp_path / "other").write_text("another secret of thirty-two characters")
    (tmp_path / "other").chmod(0o600)
    common[common.index(str(tmp_path / "key"))] = str(tmp_path / "other")
    code, _, err = call("forget", raw, *common, "--yes")
    assert (code, "is not the one of the catalog" in err) == (1, True)
    common[common.index(str(tmp_path / "other"))] = str(tmp_path / "key")
    code, out, err = call("forget", *common, "--yes")
    assert (code, "nobody is named; give patients, --ids-file or --record" in err) == (1, True)


def test_the_command_lets_no_raw_id_in_and_tells_of_ids_that_nobody_has(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "key").chmod(0o600)
    common = ["--catalog", str(place / "catalog"), "--runs", str(place / "runs"), "--key-file", str(tmp_path / "key")]
    common += ["--state", str(tmp_path / "state"), "--why", "objection", "--yes"]

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["forget", *arguments, *common])
        out, err = capsys.readouterr()
        return int(str(end.value.code)), out, err

    for arguments in (["15709", "--pseudonyms"], ["--record", "records500/00000/00139_hr"]):
        code, _, err = call(*arguments)
        assert (code, "have 32 characters of 0-9 and a-f" in err, "nothing was done" in err) == (1, True, True)
        assert arguments[0] not in err
    assert not any(b"15709" in data or b"00139_hr" in data for data in everything(tmp_path / "state").values())
    common[3] = str(place / "run")
    code, _, err = call("15709")
    assert (code, "there is no folder" in err) == (1, True)
    common[3] = str(place / "runs")

    (tmp_path / "ids").write_bytes(b"\xef\xbb\xbf15709\r\n15709x\r\n")  # as a spreadsheet saves it
    code, out, err = call("--ids-file", str(tmp_path / "ids"), "--json")
    told = json.loads(out)
    assert (code, told["patients"], told["patients_in_catalog"], told["patients_unknown"]) == (0, 2, 1, 1)
    assert err.startswith("1 of the patients are in neither catalog nor runs, and were not forgotten before")
    assert json.loads(call("--ids-file", str(tmp_path / "ids"), "--json")[1])["patients_unknown"] == 0
    log = (tmp_path / "state" / "audit.jsonl").read_text()
    assert KEY.pseudonym("patient", "15709") in log
    assert str(place / "runs") in log
    assert not re.search(r'"15709', log)
