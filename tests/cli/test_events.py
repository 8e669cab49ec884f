"""What the commands leave in the audit log, and that none begins whose log cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from screening.archive.catalog import open_catalog
from screening.cli import main
from screening.report.sheets import FOR_READERS
from tests.bundles import make_bundle

KEY = "a secret of more than thirty-two characters"


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCREENING_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SCREENING_PSEUDONYM_KEY", KEY)
    return tmp_path


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(str(ended.value.code))


def log(at: Path) -> list[dict[str, Any]]:
    path = at / "state" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.usefixtures("ray_here")
def test_every_command_that_publishes_exports_or_changes_is_on_record(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle(at / "bundle", threshold=0.3665)
    assert call("simulate", "archive", "--records", 40, "--prevalence", 0.3) == 0
    assert call("catalog", "archive", "--out", "catalog", "--labels", "ptbxl-mi") == 0
    assert log(at) == []
    both = ("--runs", "runs", "--catalog", "catalog")
    run = ("run", "--catalog", "catalog", "--out", "runs", "--model", "bundle", "--attribution", "none")
    assert call(*run) == 0
    assert call(*run) == 0
    assert call("report", *both, "--out", "report", "--no-mlflow") == 0
    assert call("validate", "sample", *both, "--out", "sheets", "--readings", 24, "--readers", 1) == 0
    form = at / "sheets" / FOR_READERS / "readings-1.csv"
    form.write_text(
        "sheet,reading\n" + "".join(f"{sheet},{'infarct' if sheet % 3 else 'none'}\n" for sheet in range(1, 25))
    )
    code = call("validate", "import", "sheets", "--readings", form, "--reader", "ann", "--runs", "runs")
    assert code == 0, capsys.readouterr().err
    run_id = next(entry["what"]["run_id"] for entry in log(at) if entry["event"] == "run.published")
    (at / "runs" / run_id / "results" / "part-00001.parquet").unlink()
    assert call("repair", f"runs/{run_id}", "--model", "bundle") == 0
    assert call("register") == 0
    assert call("rollback", "msaic-mi", "--why", "x") == 1
    assert call("promote", "msaic-mi", 1, "--catalog", "catalog", "--folds", "1") in (0, 1)
    assert call("forget", "7", *both, "--why", "objection", "--yes") == 0

    entries = log(at)
    told = [entry["event"] for entry in entries]
    assert told == [
        "run.started",
        "run.published",
        "run.started",
        "run.was_published_before",
        *("report.started", "report.made", "worklist.exported"),
        *("sheets.started", "sheets.exported"),
        "readings.imported",
        *("run.repair_started", "run.repaired"),
        "model.registered",
        "model.rollback_refused",
        *[event for event in told if event in ("model.promoted", "model.refused")],
        *("patients.forget_started", "patients.forgotten"),
    ]
    assert entries[1]["what"]["runs"] == str(at / "runs")
    assert entries[1]["what"]["run_id"] == run_id
    assert {entry["who"] for entry in entries} == {entries[0]["who"]}
    # Nobody is in it but the one who was forgotten, by pseudonym.
    text = (at / "state" / "audit.jsonl").read_text()
    rows = [
        row for batch in open_catalog("catalog").iter_batches(["record_id", "patient_key"]) for row in batch.to_pylist()
    ]
    assert len(rows) in (38, 39)
    assert not any(value in text for row in rows for value in row.values())
    assert len(entries[-2]["what"]["patient_keys"]) == 1
    capsys.readouterr()
    noted = ("--at-least", len(entries), "--expect", entries[-1]["sha256"])
    assert call("audit", "verify", *noted) == 0
    path = at / "state" / "audit.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))  # an unbroken chain, but for what was noted
    assert call("audit", "verify") == 0
    for each in (noted[:2], noted[2:]):
        assert call("audit", "verify", *each) == 1
    path.write_bytes(whole)

    def ended(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("screening.run.pipeline.screen", ended)
    assert call(*run) == 3
    assert [(entry["event"], entry["what"].get("by")) for entry in log(at)[-2:]] == [
        ("run.started", None),
        ("run.interrupted", "KeyboardInterrupt"),
    ]


@pytest.mark.parametrize(
    "command",
    [
        ["pack", "--catalog", "c", "--out", "pack"],
        ["convert", "archive", "copy"],
        ["run", "--catalog", "c", "--out", "runs"],
        ["nightly", "--archive", "archive", "--catalog", "c", "--runs", "runs", "--report", "report"],
        ["report", "--runs", "runs", "--catalog", "c", "--out", "report"],
        ["validate", "sample", "--runs", "runs", "--catalog", "c", "--out", "sheets"],
        ["validate", "import", ".", "--readings", "r.csv", "--reader", "ann", "--runs", "runs"],
        ["repair", "runs/x"],
        ["register"],
        ["promote", "msaic-mi", "1", "--catalog", "c"],
        ["rollback", "msaic-mi", "--why", "x"],
        ["train", "--catalog", "c"],
        ["forget", "7", "--runs", "runs", "--catalog", "c", "--why", "x", "--yes"],
    ],
)
def test_a_command_whose_log_cannot_be_written_does_not_begin(
    at: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (at / "closed").write_text("")
    before = sorted(at.rglob("*"))
    assert call(*command, "--audit-log", "closed/audit.jsonl") == 1
    err = capsys.readouterr().err
    assert err == (
        "Error: the audit log closed/audit.jsonl cannot be written (Not a directory); mend that, or name another with "
        "--audit-log\n"
    )
    assert sorted(at.rglob("*")) == before


def test_commands_without_storage_options_take_those_of_the_environment(
    at: Path, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCREENING_STORAGE_OPTIONS", json.dumps(s3))
    monkeypatch.setenv("SCREENING_AUDIT_LOG", "s3://screening/audit")
    assert call("rollback", "msaic-mi", "--why", "x") == 1
    capsys.readouterr()
    assert call("audit", "show", "--json") == 0
    assert json.loads(capsys.readouterr().out)["event"] == "model.rollback_refused"
