"""``screening explain`` on real records, as a user types it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from screening.archive.build import build_catalog
from screening.archive.identity import PseudonymKey
from screening.contract import LEADS, NOTICE, OPERATORS, TERRITORIES, WAVES
from screening.errors import ArchiveError, UserError
from screening.run.current import forget, refresh
from tests.report.screened import REJECTED, Screened, importance, screen, territories, waves

EXPLAINED, UNEXPLAINED, NOISY, LOST, LEADS_ONLY = 3, 5, 9, 13, 15
FOUND = "Pathological Q in the inferior leads (Q: III 45 ms 0.32 mV)."
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command as `screening.cli.main` does: a UserError is one sentence and exit code 1."""
    from screening.cli.explain import command

    def run(*arguments: object) -> tuple[int, str, str]:
        code, error = 0, ""
        try:
            code = command.main([str(a) for a in arguments], standalone_mode=False) or 0
        except UserError as refused:
            code, error = 1, str(refused)
        out, err = capsys.readouterr()
        return code, out, err + error

    return run


@pytest.fixture(scope="module")
def screened(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Screened:
    folder = tmp_path_factory.mktemp("explain")
    shutil.copytree(ptbxl, folder / "archive")
    for path in (folder / "archive").rglob("*"):
        path.chmod(0o755)
    sorted((folder / "archive").rglob("*.dat"))[LOST].unlink()

    def result(at: int, record_id: str) -> dict[str, Any]:
        if at == NOISY:
            return dict(REJECTED)
        if at == LEADS_ONLY:
            return {"probability": 0.9, **importance(V2=1.5)}
        if at != EXPLAINED:
            return {}
        of_waves = waves(FOUND, QRS_inferior=0.75, T_lateral=-0.5)
        return {
            "probability": 0.9,
            **importance(V2=1.5, III=-0.25),
            **territories(inferior=2.0, septal=-1.0),
            **of_waves,
        }

    return screen(folder, folder / "archive", result)


@pytest.fixture(scope="module")
def ids(screened: Screened) -> list[str]:
    return [r for b in screened.opened().iter_batches(["record_id"]) for r in b["record_id"].to_pylist()]


@pytest.fixture
def where(screened: Screened) -> list[object]:
    return ["--runs", screened.runs.url, "--catalog", screened.catalog]


# --- On the terminal -------------------------------------------------------------------------------------------------


def test_a_flagged_record_is_told_with_its_leads(
    explain: Command, where: list[object], ids: list[str], screened: Screened
) -> None:
    code, out, _ = explain(ids[EXPLAINED], *where)
    assert code == 0
    assert "Probability of infarction  0.900, flagged (threshold 0.3); logit 2.20" in out
    assert "Leading territory          inferior +2.00 (+1.22 to +2.78)\n" in out
    assert "Territories                septal −1.00 (−1.20 to −0.80), anterior 0 (" in out
    assert f"Findings                   {FOUND}\n" in out
    assert "Leading leads              V2 +1.50; 8 donors, operator 'lead'" in out
    assert f"Run                        {screened.run_id}" in out
    assert "Leads, each alone (operator 'lead', 8 donors, standard error 0.05, the mean over them)" in out
    assert "Territories (operator 'territory', 16 donors)" in out
    assert "Waves by territory (operator 'wave', 4 donors, standard error 0.10, the mean over them)" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["inferior", "+2.00", "(+1.22", "to", "+2.78)", "#" * 30] in lines
    assert ["septal", "−1.00", "(−1.20", "to", "−0.80)", "-" * 15] in lines
    assert [*WAVES] in lines
    assert ["inferior", "0", "+0.75", "0", "0"] in lines
    assert ["lateral", "0", "0", "0", "−0.50"] in lines
    table = [line.split() for line in out.splitlines() if re.match(rf"  ({'|'.join(LEADS)}) ", line)]
    bars = {line[0]: line for line in table[:12]}
    assert list(bars) == list(LEADS)
    assert bars["V2"][1:] == ["+1.50", "#" * 30]
    assert bars["III"][1:] == ["−0.25", "-" * 5]
    assert len(bars["V5"]) == 2
    amplitudes = {line[0]: line[1:] for line in table[12:]}
    assert list(amplitudes) == list(LEADS)
    assert {len(cells) for cells in amplitudes.values()} == {8}
    assert "Above zero the part speaks for infarction, below zero against it." in " ".join(out.split())
    assert "not the place of an infarct, and no diagnosis" in " ".join(out.split())
    assert "was not computed" not in out
    assert NOTICE in out


def test_a_record_without_importance_says_how_to_get_it(explain: Command, where: list[object], ids: list[str]) -> None:
    code, out, _ = explain(ids[UNEXPLAINED], *where)
    assert code == 0
    assert "0.100, not flagged (threshold 0.3)" in out
    assert "The importance of leads, territories and waves was not computed: run " in out
    assert "explained flagged records only. To get it: screening run --catalog " in out
    assert " --attribution all --operators lead,territory,wave\n" in out
    assert "How to read" not in out
    assert "Amplitudes of the median of " in out


def test_a_run_of_leads_alone_says_only_the_leads_and_how_to_get_more(
    explain: Command, where: list[object], ids: list[str], screened: Screened, ptbxl: Path, tmp_path: Path
) -> None:
    def result(at: int, record_id: str) -> dict[str, Any]:
        return {"probability": 0.9, **importance(V2=1.5)} if at == LEADS_ONLY else {}

    plain = screen(tmp_path, ptbxl, result, operators="lead")
    _, out, _ = explain(ids[LEADS_ONLY], "--runs", plain.runs.url, "--catalog", plain.catalog)
    assert "Leading leads              V2 +1.50" in out
    assert "Leading territory" not in out
    assert "Findings" not in out
    assert "Operator 'wave'" not in out
    assert (
        f"The importance of territories and waves was not computed: run {plain.run_id} was asked for lead (--operators)."
        in out
    )
    assert " --attribution all --operators lead,territory,wave\n" in out
    # Asked for, and yet not there: too few donors.
    _, out, _ = explain(ids[LEADS_ONLY], *where)
    assert "territories and waves was not computed: there were fewer than two donors of other patients." in out


def test_an_archive_that_is_away_costs_the_amplitudes_only(
    explain: Command, screened: Screened, ids: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(screened.archive.parent, folder)
    away = folder / "catalog"
    shutil.rmtree(away)
    build_catalog(str(folder / "archive"), str(away), deidentified=True)
    shutil.rmtree(folder / "archive")
    where = ["--runs", screened.runs.url, "--catalog", away]
    code, out, _ = explain(ids[EXPLAINED], *where)
    assert code == 0
    assert FOUND in out
    assert (
        "The amplitudes were not measured: the archive could not be read (the archive's folder is gone or empty)."
        in out
    )
    with pytest.raises(ArchiveError, match="^the archive's folder is gone or empty$"):
        explain(ids[EXPLAINED], *where, "--out", tmp_path / "ecg.png")


def test_a_rejected_record_says_why_in_words(explain: Command, where: list[object], ids: list[str]) -> None:
    code, out, _ = explain(ids[NOISY], *where)
    assert code == 0
    assert "noise: noise hides the ECG: 0.9 mV above 40 Hz (limit 0.3 mV)" in out
    assert "The record was rejected: it has no score" in out
    assert "Probability" not in out
    _, out, _ = explain(ids[LOST], *where)
    assert "missing_file: a file of the record is not in the archive" in out


def test_json_has_the_row_and_what_follows_from_it(explain: Command, where: list[object], ids: list[str]) -> None:
    code, out, _ = explain(ids[EXPLAINED], *where, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["threshold"] == 0.3
    assert facts["row"]["record_id"] == ids[EXPLAINED]
    assert facts["row"]["importance_V2"] == 1.5
    assert (facts["leading_leads"], facts["leading_territory"], facts["remarks"]) == (["V2"], "inferior", [])
    assert facts["findings"] == FOUND
    assert list(facts["importance"]) == ["territory", "wave", "lead"]
    for operator, donors in {"territory": 16, "wave": 4, "lead": 8}.items():
        assert facts["importance"][operator]["donors"] == donors
        assert list(facts["importance"][operator]["parts"]) == list(OPERATORS[operator])
    inferior = facts["importance"]["territory"]["parts"]["inferior"]
    assert inferior == pytest.approx({"mean": 2.0, "se": 0.4, "low": 2.0 - 0.784, "high": 2.784}, abs=1e-6)
    assert facts["importance"]["territory"]["standard_error"] == "of each part"
    assert facts["importance"]["wave"]["standard_error"] == "mean over the parts"
    assert list(facts["amplitudes"]["leads"]) == list(LEADS)
    assert 40 < facts["amplitudes"]["rate_bpm"] < 150
    assert facts["amplitudes"]["leads"]["II"]["r_mV"] > 0.1
    assert any("Operator 'territory'" in sentence for sentence in facts["how_to_read"])
    assert "T" in facts["row"]["acquired_at"]


# --- Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ecg.png", "ecg.SVG", "deep/er/ecg.html"])
def test_a_file_is_for_its_owner_alone(
    name: str, explain: Command, where: list[object], ids: list[str], tmp_path: Path
) -> None:
    out = tmp_path / name
    before = os.umask(0)
    try:
        code, said, err = explain(ids[EXPLAINED], *where, "--out", out)
    finally:
        os.umask(before)
    assert code == 0, err
    assert said == f"Written: {out}\n"
    assert out.stat().st_mode & 0o777 == 0o600
    data = out.read_bytes()
    if name.endswith("png"):
        assert data.startswith(b"\x89PNG")
    elif name.endswith("SVG"):
        words = [text.text for text in ElementTree.fromstring(data).iter("{http://www.w3.org/2000/svg}text")]
        assert {"Importance, in logits", f"record {ids[EXPLAINED]}", "+1.50", FOUND} <= set(words)
        assert {*TERRITORIES, *WAVES, "leading territory inferior +2.00 (+1.22 to +2.78)"} <= set(words)
        assert any("hatched blue" in word for word in words if word)
    else:
        assert data.count(b"<svg") == 1
        assert b"<script" not in data
        assert b"default-src 'none'" in data
        assert data.count(b"<table>") == 4  # territories, waves, leads, amplitudes
        text = data.decode()
        for operator in ("territory", "wave", "lead"):
            assert f"Operator &#39;{operator}&#39;" in text.split("How to read this")[1]
        assert text.count(FOUND) >= 1
        assert "<caption>Amplitudes of each lead</caption>" in text
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_rejected_record_is_drawn_if_it_can_be_read(
    explain: Command, where: list[object], ids: list[str], tmp_path: Path
) -> None:
    code, _, _ = explain(ids[NOISY], *where, "--out", tmp_path / "noisy.svg")
    assert code == 0
    text = (tmp_path / "noisy.svg").read_text()
    assert "Rejected, not scored: noise: noise hides the ECG" in text
    assert "Importance" not in text
    code, _, err = explain(ids[LOST], *where, "--out", tmp_path / "lost.png")
    assert code == 1
    assert f"record {ids[LOST]} has no ECG to draw: a file of the record is not in the archive" in err
    assert not (tmp_path / "lost.png").exists()
    code, _, _ = explain(ids[LOST], *where, "--out", tmp_path / "lost.html")
    assert code == 0
    assert "No ECG is drawn: a file of the record is not in the archive" in (tmp_path / "lost.html").read_text()


def test_another_suffix_is_refused_before_anything_is_read(explain: Command, tmp_path: Path) -> None:
    code, _, err = explain("r", "--runs", tmp_path, "--catalog", tmp_path, "--out", tmp_path / "ecg.pdf")
    assert code == 1
    assert err.endswith(
        "ecg.pdf has none of the suffixes .png, .svg and .html, which say what is written; give it one."
    )


def test_a_record_that_has_changed_is_not_drawn_as_it_was_scored(
    explain: Command, screened: Screened, ids: list[str], tmp_path: Path
) -> None:
    archive, catalog = tmp_path / "archive", tmp_path / "catalog"
    shutil.copytree(screened.archive, archive)
    header = archive / f"{ids[EXPLAINED]}.hea"
    header.write_text(header.read_text() + "# edited\n")
    for end in ("hea", "dat"):
        (archive / f"{ids[UNEXPLAINED]}.{end}").unlink()
    table = archive / "ptbxl_database.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if ids[UNEXPLAINED] not in line))
    build_catalog(str(archive), str(catalog), deidentified=True)
    where = ["--runs", screened.runs.url, "--catalog", catalog]
    code, out, _ = explain(ids[EXPLAINED], *where)
    assert code == 0
    assert "The record has changed since it was screened, and reports leave it out until it is screened again" in out
    code, _, err = explain(ids[EXPLAINED], *where, "--out", tmp_path / "ecg.png")
    assert code == 1
    assert "has no ECG to draw: the record has changed since it was screened" in err
    code, out, _ = explain(ids[UNEXPLAINED], *where)
    assert code == 0
    assert f"The catalog {catalog} does not hold the record any more" in out


# --- Records that no run has -----------------------------------------------------------------------------------------


def test_an_unknown_record_gets_the_nearest_help(
    explain: Command, where: list[object], ids: list[str], screened: Screened
) -> None:
    code, out, err = explain("00004", *where)
    assert (code, out) == (1, "")
    assert err == (
        f"record 00004 is neither in the catalog {screened.catalog} nor in a published run in {screened.runs.url}; "
        f"did you mean {ids[3]}?"
    )
    _, _, err = explain("nothing of the kind", *where)
    assert err.endswith("; a record is named by its path in the archive, without suffix.")


def test_a_record_that_was_not_screened_says_so(
    explain: Command, screened: Screened, ids: list[str], ptbxl: Path, tmp_path: Path
) -> None:
    archive, catalog = tmp_path / "archive", tmp_path / "catalog"
    shutil.copytree(ptbxl, archive)
    for path in archive.rglob("*"):
        path.chmod(0o755)
    table = archive / "ptbxl_database.csv"
    table.write_text(table.read_text().replace(ids[0], "records500/00000/99999_hr"))
    for end in ("hea", "dat"):
        (archive / f"{ids[0]}.{end}").rename(archive / f"records500/00000/99999_hr.{end}")
    build_catalog(str(archive), str(catalog), deidentified=True)
    code, _, err = explain("records500/00000/99999_hr", "--runs", screened.runs.url, "--catalog", catalog)
    assert code == 1
    assert f"is in the catalog {catalog}, but no published run in {screened.runs.url} has it; screen it with" in err


def test_a_forgotten_record_stays_forgotten(
    explain: Command, screened: Screened, ids: list[str], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(screened.runs.path(""), runs)
    copy = type(screened.runs)(str(runs))
    patient = next(
        row["patient_key"]
        for b in screened.opened().iter_batches(["record_id", "patient_key"])
        for row in b.to_pylist()
        if row["record_id"] == ids[20]
    )
    refresh(copy)
    forget(copy, record_ids=[ids[EXPLAINED]], patient_keys=[patient])
    where = ["--runs", runs, "--catalog", screened.catalog]
    _, _, err = explain(ids[EXPLAINED], *where)
    assert err == f"record {ids[EXPLAINED]} was forgotten: it is left out of {runs} and of its reports."
    _, _, err = explain(ids[20], *where)
    assert err == f"record {ids[20]} is of a patient who was forgotten: it is left out of {runs} and of its reports."


def test_pseudonyms_are_asked_for_by_their_name(explain: Command, ptbxl: Path, tmp_path: Path) -> None:
    keyed = screen(tmp_path, ptbxl, lambda at, record_id: {}, key=PseudonymKey.of(b"k" * 32))
    code, _, err = explain("records500/00000/00001_hr", "--runs", keyed.runs.url, "--catalog", keyed.catalog)
    assert code == 1
    assert err.endswith(
        "; a record is named by its record_id, a pseudonym that results and worklist hold, and not by its path."
    )


def test_a_model_that_is_gone_is_named(explain: Command, screened: Screened, ids: list[str], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(screened.runs.path(""), runs)
    manifest = runs / "models" / screened.bundle_sha256 / "bundle.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace("0.3", "0.2"))
    where = ["--runs", runs, "--catalog", screened.catalog]
    code, _, err = explain(ids[EXPLAINED], *where)
    assert code == 1
    assert "bundle.json" in err
    manifest.unlink()
    code, _, err = explain(ids[EXPLAINED], *where)
    assert code == 1
    assert err.endswith("the model behind these rows, is not there; restore it from a copy")


def test_no_run_at_all_is_one_sentence(explain: Command, screened: Screened, tmp_path: Path) -> None:
    code, _, err = explain("r", "--runs", tmp_path, "--catalog", screened.catalog)
    assert code == 1
    assert "holds no published run" in err
