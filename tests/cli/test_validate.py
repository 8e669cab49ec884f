"""`screening validate`: from published scores to sheets, and from readings to local sensitivity and specificity."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import logit

from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.labels import load_rule
from screening.archive.reader import ArchiveReader
from screening.cli.validate import command
from screening.contract import Reason, Status, result_schema
from screening.errors import UserError
from screening.recording import Recording
from screening.report.validation import estimate, load_validations
from screening.run.bundles import store_bundle
from screening.run.ledger import finished_shards, footer, publish
from screening.run.plan import make_plan, read_locations, read_shard, results_name, store_plan
from screening.run.sealed import results_bytes
from screening.settings import RunSettings
from screening.signal.simulate import SimulationSettings, write_archive
from screening.storage import Folder
from tests.bundles import make_bundle


@dataclass(frozen=True)
class World:
    """A simulated archive, its catalog, and a run whose scores are made up."""

    catalog: Path
    runs: Path
    bundle_sha256: str
    infarct: dict[str, bool]
    scored: set[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    write_archive(folder / "archive", SimulationSettings(records=150, prevalence=0.3, seed=3))
    build_catalog(str(folder / "archive"), str(folder / "catalog"), labels=load_rule("ptbxl-mi"), deidentified=True)
    catalog = open_catalog(str(folder / "catalog"))
    bundle = make_bundle(folder / "tiny", threshold=0.3)
    runs = Folder(str(folder / "runs"))
    store_bundle(runs, bundle)
    model = {"name": bundle.name, "version": bundle.version, "bundle_sha256": bundle.sha256}
    plan = make_plan(
        catalog,
        model={**model, "input_contract_sha256": bundle.input_contract_sha256},
        donor_set=None,
        settings=RunSettings(attribution="none"),
        quality={},
        shard_records=64,
        fingerprint={},
    )
    run = runs.folder(plan.run_id)
    store_plan(run, catalog, plan)
    labels = {
        row["record_id"]: row["label"] == "MI"
        for b in catalog.iter_batches(["record_id", "label"])
        for row in b.to_pylist()
    }
    reader, rng, scored = ArchiveReader(catalog.root_url), np.random.default_rng(0), set()
    for shard in range(plan.shards):
        rows = []
        for planned, place in zip(read_shard(run, shard).to_pylist(), read_locations(run, shard), strict=True):
            recording = reader.read(place, planned["record_id"])
            assert isinstance(recording, Recording)
            row = {k: v for k, v in planned.items() if k in result_schema().names}
            row |= plan.results_identity | {"record_sha256": recording.sha256}
            if rng.random() < 0.05:
                row |= {"status": Status.REJECTED, "reason": Reason.NOISE}
            else:
                probability = 1 / (1 + np.exp(-rng.normal(0.5 if labels[planned["record_id"]] else -2.5, 1.5)))
                row |= {"status": Status.SCORED, "probability": probability, "flagged": probability >= bundle.threshold}
                row |= {"logit": logit(probability)}
                scored.add(planned["record_id"])
            rows.append(row)
        table = pa.Table.from_pylist(rows, schema=result_schema())
        done = {"shard": shard, "rows": len(rows), "scored": sum(r["status"] == "scored" for r in rows)}
        done |= {"flagged": 0, "explained": 0, "reasons": {"noise": len(rows) - done["scored"]}}
        run.write(results_name(shard), results_bytes(table, footer=footer(plan, done)))
    publish(run, plan, finished_shards(run, plan).values(), facts={"finished_at": "2026-01-01T00:00:00Z"})
    return World(folder / "catalog", folder / "runs", bundle.sha256, labels, scored)


def call(*arguments: object) -> None:
    command.main([str(a) for a in arguments], standalone_mode=False)


def drawn(world: World, out: Path, *more: object) -> Path:
    call("sample", "--runs", world.runs, "--catalog", world.catalog, "--out", out, *more)
    return out


@pytest.fixture(scope="module")
def sheets(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(world, tmp_path_factory.mktemp("drawn") / "sheets", "--readings", 40, "--json")


def key_of(sheets: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((sheets / "key.json").read_text())["sheets"]
    return rows


def fill(sheets: Path, world: World, path: Path, *, wrong: int = 0, leave: int = 0) -> Path:
    """Write a reader's file: the truth, but for some sheets."""
    rows = key_of(sheets)
    lines = ["sheet,reading,certainty,comment"]
    for i, row in enumerate(rows):
        truth = world.infarct[str(row["record_id"])] != (i < wrong)
        word = "" if i >= len(rows) - leave else "infarct" if truth else "none"
        lines.append(f"{row['sheet']},{word},,")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_sample_is_of_scored_patients_one_ecg_each(world: World, sheets: Path) -> None:
    ids = [str(row["record_id"]) for row in key_of(sheets)]
    assert len(ids) == len(set(ids)) == 40
    assert set(ids) <= world.scored
    rows = [
        row
        for batch in open_catalog(str(world.catalog)).iter_batches(["record_id", "patient_key", "acquired_at"])
        for row in batch.to_pylist()
        if row["record_id"] in world.scored
    ]
    latest = {row["patient_key"]: row["record_id"] for row in sorted(rows, key=lambda row: row["acquired_at"])}
    assert len(latest) < len(rows), "some patients have several ECGs"
    assert set(ids) <= set(latest.values())
    strata = json.loads((sheets / "key.json").read_text())["strata"]
    assert sum(s["patients"] for s in strata) == len(latest)
    assert os.stat(sheets).st_mode & 0o777 == 0o700
    assert len(list((sheets / "for_readers" / "sheets").glob("*.png"))) == 40


def test_what_was_written_and_what_comes_next_is_said(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = drawn(world, tmp_path / "two", "--readings", 24, "--readers", 1, "--show-age-and-sex", "--seed", 5)
    said = capsys.readouterr().out
    assert re.search(r"^24 of \d+ patients drawn in 6 strata of tiny 1: \d+ flagged, \d+ not$", said, re.MULTILINE)
    assert f"For the readers: {out}/for_readers" in said
    assert f"For you alone:   {out}/key.json; readers must not see it" in said
    assert f"screening validate import {out} --readings readings-1.csv --reader NAME --runs {world.runs}" in said

    record = str(key_of(out)[0]["record_id"])
    data = Path(open_catalog(str(world.catalog)).root_url.removeprefix("file://")) / f"{record}.dat"
    whole = data.read_bytes()
    try:
        data.write_bytes(whole[:-24] + whole[:24])  # no longer what was scored
        again = drawn(world, tmp_path / "again", "--readings", 24, "--readers", 1, "--show-age-and-sex", "--seed", 5)
    finally:
        data.write_bytes(whole)
    assert "1 of the drawn recordings cannot be read from the archive as they were scored" in capsys.readouterr().out
    assert (again / "key.json").read_bytes() == (out / "key.json").read_bytes()
    first, second = (f"for_readers/sheets/000{i}.png" for i in (1, 2))
    assert (out / first).exists()
    assert not (again / first).exists()
    assert (again / second).read_bytes() == (out / second).read_bytes()


def test_readings_become_a_validation_that_the_report_finds(
    world: World, sheets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = fill(sheets, world, tmp_path / "one.csv", leave=3)
    call("import", sheets, "--readings", filled, "--reader", "One", "--runs", world.runs)
    said = capsys.readouterr().out
    assert "37 of 40 sheets decided" in said
    assert "0 unreadable and 3 not read yet; they count as the others of their stratum do" in said
    for word in ("sensitivity", "specificity", "prevalence "):
        assert re.search(rf"{word} +[\d.]+%  \(95% interval [\d.]+% to [\d.]+%", said)
    assert "The bundle's own figures" in said or "bundle's own figures: " in said
    assert re.search(r"[\d,]+ more readings \(\d+ flagged, \d+ not\) would narrow the prevalence's interval", said)
    found = load_validations(Folder(str(world.runs)), world.bundle_sha256)
    assert len(found) == 1
    assert found[0].readers == ("One",)
    assert found[0].reference == "infarction of any age on the ECG, read by one blinded reader"
    assert found[0].index_rule == "latest"
    rows = key_of(sheets)[:37]
    assert sum(s.infarct for s in found[0].strata) == sum(world.infarct[str(r["record_id"])] for r in rows)
    weights = [1 / float(str(r["inclusion_probability"])) for r in rows]
    rough = np.average([world.infarct[str(r["record_id"])] for r in rows], weights=weights)
    assert estimate(found[0]).prevalence.value == pytest.approx(float(rough), abs=0.03)
    kept = next((world.runs / "validations").glob("*.json"))
    assert os.stat(kept).st_mode & 0o777 == 0o600
    assert not any(record_id in kept.read_text() for record_id in world.infarct)


def test_differences_are_settled_in_a_third_file(
    world: World, sheets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = fill(sheets, world, tmp_path / "1.csv"), fill(sheets, world, tmp_path / "2.csv", wrong=4)
    readings = ("--readings", one, "--reader", "A", "--readings", two, "--reader", "B", "--runs", world.runs)
    path = sheets / "adjudicate.csv"
    with pytest.raises(UserError, match=f"readers differ on 4 of 40 sheets; settle them in {path}, column 'reading'"):
        call("import", sheets, *readings)
    assert re.search(
        r"A and B agree on 90\.0% of 40 sheets, Cohen's kappa 0\.\d\d \(95% interval", capsys.readouterr().out
    )
    assert os.stat(path).st_mode & 0o777 == 0o600
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sheet"] for row in rows] == ["1", "2", "3", "4"]
    assert all({row["reader 1"], row["reader 2"]} == {"infarct", "none"} and not row["reading"] for row in rows)

    path.write_text("sheet,reader 1,reader 2,reading,comment\n1,none,infarct,none,\n2,,,,\n3,,,infarct,\n4,,,,\n")
    with pytest.raises(UserError, match="readers differ on 4 of 40 sheets"):
        call("import", sheets, *readings)  # what was filled in stays
    assert "3,,,infarct," in path.read_text()
    with pytest.raises(UserError, match="readers differ on 2 of 40 sheets"):
        call("import", sheets, *readings, "--adjudicated", path)
    lines = path.read_text().splitlines()
    assert [line.split(",")[3] for line in lines[1:]] == ["none", "", "infarct", ""]

    path.write_text(path.read_text().replace(",,\n", ",unreadable,\n"))
    before = len(load_validations(Folder(str(world.runs)), world.bundle_sha256))
    capsys.readouterr()
    call("import", sheets, *readings, "--adjudicated", path, "--json")
    stored = json.loads(capsys.readouterr().out)
    assert stored["agreement"][0]["readers"] == ["A", "B"]
    assert stored["reference"].endswith("read by 2 blinded readers, differences adjudicated")
    assert sum(s["unreadable"] for s in stored["strata"]) == 2
    assert len(load_validations(Folder(str(world.runs)), world.bundle_sha256)) == before + 1

    path.write_text("sheet,reading\n9,none\n")
    with pytest.raises(UserError, match="is of earlier readings and lacks sheets on which these differ; move it away"):
        call("import", sheets, *readings)


def test_bad_input_is_refused_in_one_sentence(world: World, sheets: Path, tmp_path: Path) -> None:
    filled = fill(sheets, world, tmp_path / "one.csv")
    runs = ("--runs", world.runs)
    with pytest.raises(UserError, match="give one --reader, each another name, for each --readings file"):
        call("import", sheets, "--readings", filled, "--reader", "A", "--reader", "B", *runs)
    with pytest.raises(UserError, match="give one --reader, each another name"):
        call("import", sheets, "--readings", filled, "--reader", "A", "--readings", filled, "--reader", "A", *runs)
    with pytest.raises(UserError, match=r"absent.csv cannot be read \(No such file or directory\); name a reader's"):
        call("import", sheets, "--readings", tmp_path / "absent.csv", "--reader", "A", *runs)
    with pytest.raises(UserError, match="holds no key.json"):
        call("import", tmp_path, "--readings", filled, "--reader", "A", *runs)
    with pytest.raises(UserError, match="exists and is not an empty folder; name another one with --out"):
        drawn(world, sheets)
    with pytest.raises(UserError, match="readings are too few for 6 strata"):
        drawn(world, tmp_path / "few", "--readings", 5)
    assert not (tmp_path / "few").exists()
    with pytest.raises(UserError):
        call("sample", "--runs", tmp_path, "--catalog", world.catalog, "--out", tmp_path / "none")
