"""The report from published runs to its files, and what it says of bad input."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from screening.archive.catalog import Catalog
from screening.errors import UserError
from screening.model.bundle import Bundle, Counts, OperatingCharacteristics
from screening.report.assemble import Report, keep_release, make_report, open_population
from screening.report.document import Estimate, Headline, Hidden, NotEstimable, Remark, Table
from screening.report.readings import INFARCT, NONE, by_stratum
from screening.report.render import write_report
from screening.report.sampling import draw
from screening.report.standardise import load_reference_population
from screening.report.validation import Validation, store_validation
from screening.run.bundles import store_bundle
from screening.run.current import refresh
from screening.settings import ReportSettings
from screening.storage import Folder
from tests.bundles import make_bundle
from tests.published import publish_run, write_catalog
from tests.report.attack import small_numbers

TODAY = date(2026, 11, 23)
SE, SP, P = 0.8, 0.9, 0.15


def people(n: int, seed: int = 0, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], list[bool]]:
    """Return catalog rows, result rows by record, and who is ill; some patients have two ECGs, some records are bad."""
    rng = np.random.default_rng(seed)
    rows, results, ill = [], {}, []
    for i in range(n):
        sick = bool(rng.random() < P)
        for ecg in range(1 + (i % 5 == 0)):
            name = f"r{i:05d}-{ecg}"
            rows.append(
                {
                    "record_id": name,
                    "patient_key": f"p{i}",
                    "acquired_at": datetime(2015 + int(rng.integers(5)), int(rng.integers(1, 13)), 1 + ecg),
                    "age": float(rng.integers(25, 90)),
                    "sex": ["female", "male", None][int(rng.choice(3, p=[0.48, 0.48, 0.04]))],
                    "site": ["North", "<script>alert(1)</script>", "=cmd|' /C calc'!A0", None][int(rng.integers(4))],
                    "device": "Cart 1",
                    **changes,
                }
            )
            flagged = bool(rng.random() < (SE if sick else 1 - SP))
            odds = rng.normal(1.5 if flagged else -2, 0.5)
            results[name] = {"probability": float(1 / (1 + np.exp(-odds))), "logit": float(odds), "flagged": flagged}
            if rng.random() < 0.04:
                results[name] = {"status": "rejected", "reason": "noise", "detail": "too much"}
        ill.append(sick)
    return rows, results, ill


def bundle_with(folder: Path, counts: Counts) -> Bundle:
    said = OperatingCharacteristics("made up", "a reader's statement", counts, {}, {})
    return make_bundle(folder, operating_characteristics=said)


def identity(bundle: Bundle) -> dict[str, str]:
    return {
        "name": bundle.name,
        "version": bundle.version,
        "bundle_sha256": bundle.sha256,
        "input_contract_sha256": bundle.input_contract_sha256,
    }


GOOD = Counts(TP=400, FN=100, TN=1800, FP=200)


def archive(
    tmp_path: Path, n: int = 1500, counts: Counts = GOOD, seed: int = 0, **changes: Any
) -> tuple[Folder, Catalog]:
    rows, results, _ = people(n, seed, **changes)
    catalog = write_catalog(tmp_path / "catalog", rows)
    runs = Folder(str(tmp_path / "runs"))
    bundle = bundle_with(tmp_path / "bundle", counts)
    store_bundle(runs, bundle)
    publish_run(runs, catalog, "run1", results, model=identity(bundle), shard_records=500)
    return runs, catalog


def report(runs: Folder, catalog: Catalog, **settings: Any) -> Report:
    chosen, population = ReportSettings(**settings), load_reference_population()
    with open_population(refresh(runs), catalog, settings=chosen, population=population, today=TODAY) as of:
        return make_report(of, settings=chosen, population=population)


def table(of: Report, key: str) -> Table:
    return next(one for one in of.document.blocks(Table) if one.key == key)


def said(of: Report) -> str:
    return " ".join(block.text for block in of.document.blocks(Remark))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Catalog, Report, Path]:
    tmp_path = tmp_path_factory.mktemp("report")
    runs, catalog = archive(tmp_path)
    of = report(runs, catalog)
    write_report(of.document, tmp_path / "out")
    return runs, catalog, of, tmp_path / "out"


def test_the_prevalence_is_what_was_planted(made: tuple[Folder, Catalog, Report, Path]) -> None:
    of = made[2]
    headline = of.findings.headline.cell
    assert isinstance(headline, Estimate)
    _, _, ill = people(1500)
    assert headline.low < np.mean(ill) < headline.high
    apparent = of.findings.total.apparent
    assert isinstance(apparent, Estimate)
    assert apparent.value == pytest.approx(np.mean(ill) * SE + (1 - np.mean(ill)) * (1 - SP), abs=0.03)
    (first,) = of.document.sections[0].blocks[:1]
    assert isinstance(first, Headline)
    assert first.items[0][:2] == ("Estimated prevalence", headline)


def test_everything_is_computed_from_what_is_shown(made: tuple[Folder, Catalog, Report, Path]) -> None:
    of = made[2]
    for key in ("by_sex", "by_age", "by_site", "by_year"):
        for row in table(of, key).records():
            patients, flagged, share = row["patients"], row["flagged"], row["apparent"]
            if isinstance(share, Estimate):
                assert isinstance(patients, int)
                assert isinstance(flagged, int)
                assert share.value == pytest.approx(flagged / patients)
                assert patients % 5 == flagged % 5 == 0
            else:
                assert isinstance(share, Hidden) or patients == 0


def test_sites_are_compared_with_all_others(made: tuple[Folder, Catalog, Report, Path]) -> None:
    of = made[2]
    rows = [row for row in table(of, "by_site").records() if isinstance(row["difference"], Estimate)]
    assert len(rows) >= 3
    for row in rows:
        others = [one for one in rows if one is not row]
        n = sum(one["patients"] for one in others)
        mean = sum(one["patients"] * one["prevalence"].value for one in others) / n
        assert row["difference"].value == pytest.approx(row["prevalence"].value - mean, abs=0.002)
        assert row["difference"].low < row["difference"].value < row["difference"].high
    assert "difference" not in next(table(of, "by_sex").records())


def test_no_small_number_is_in_any_output(made: tuple[Folder, Catalog, Report, Path]) -> None:
    out = made[3]
    assert small_numbers(json.loads((out / "report.json").read_text()), 10) == []
    for path in (out / "tables").glob("*.csv"):
        for row in csv.DictReader(io.StringIO(path.read_text())):
            for name in ("patients", "flagged", "records", "scored", "rejected", "count"):
                value = row.get(name, "")
                assert not value.isdigit() or not 1 <= int(value) <= 10, (path.name, row)


def test_hostile_names_are_text_and_no_formula(made: tuple[Folder, Catalog, Report, Path]) -> None:
    out = made[3]
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    rows = list(csv.DictReader(io.StringIO((out / "tables" / "by_site.csv").read_text())))
    assert any(row["site"] == "'=cmd|' /C calc'!A0" for row in rows)
    assert not any(row["site"].startswith("=") for row in rows)


def test_the_same_inputs_give_the_same_bytes(made: tuple[Folder, Catalog, Report, Path], tmp_path: Path) -> None:
    runs, catalog, _, out = made
    write_report(report(runs, catalog).document, tmp_path)
    for name in ("report.html", "report.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_exact_counts_are_marked_and_are_exact(made: tuple[Folder, Catalog, Report, Path]) -> None:
    runs, catalog = made[:2]
    of = report(runs, catalog, exact=True)
    assert "This report shows exact counts. It must not be shared" in said(of)
    rows = {row["step"]: row["count"] for row in table(of, "flow").records()}
    assert rows["Records in the catalog"] == catalog.records == 1800


def test_local_readings_take_precedence_and_contradict_the_bundle(tmp_path: Path) -> None:
    # The bundle says Se .95, Sp .99; here they are .8 and .9.
    runs, catalog = archive(tmp_path, n=2500, counts=Counts(TP=950, FN=50, TN=1980, FP=20), seed=3)
    before = report(runs, catalog)
    assert "Nobody has read a sample of these ECGs" in said(before)
    from screening.report.candidates import candidates

    _, _, ill = people(2500, 3)
    found = candidates(runs, catalog, index_rule="latest", today=TODAY)
    drawn = draw(found.ecgs["log_odds"].to_numpy(), found.ecgs["flagged"].to_numpy(), readings=400, seed=1)
    ids = found.ecgs["record_id"].to_pylist()
    read = {at: INFARCT if ill[int(ids[row][1:6])] else NONE for at, row in enumerate(drawn.row.tolist(), start=1)}
    store_validation(
        runs,
        Validation(
            date="2026-11-22",
            bundle_sha256=found.bundle_sha256,
            model="tiny 1",
            threshold=0.3,
            catalog_id=catalog.catalog_id,
            index_rule="latest",
            reference="the truth",
            readers=("R",),
            strata=by_stratum(drawn.strata, drawn.stratum.tolist(), read),
        ),
    )
    after = report(runs, catalog)
    wrong, right = before.findings.headline.cell, after.findings.headline.cell
    assert isinstance(wrong, Estimate)
    assert isinstance(right, Estimate)
    assert wrong.low > P
    assert right.low < P < right.high
    assert after.findings.models[0].used is after.findings.models[0].local
    assert "The bundle's own figures do not transport to this archive" in said(after)
    assert "Nobody has read a sample" not in said(after)
    assert len(table(after, f"more_readings_{found.bundle_sha256[:8]}").rows) >= 3


def test_a_bundle_without_counts_gives_flags_but_no_prevalence(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=300, counts=Counts(TP=0, FN=0, TN=0, FP=0))
    of = report(runs, catalog)
    assert isinstance(of.findings.headline.cell, NotEstimable)
    assert "carries no counts of true and false flags, and no sample of these ECGs was read" in said(of)
    assert isinstance(of.findings.total.apparent, Estimate)
    assert all(isinstance(group.adjusted, NotEstimable | Hidden) for group in of.findings.groups["sex"])
    write_report(of.document, tmp_path / "out")


def test_a_flag_that_tells_nothing_is_not_corrected(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=300, counts=Counts(TP=30, FN=70, TN=60, FP=140))
    of = report(runs, catalog)
    assert isinstance(of.findings.headline.cell, NotEstimable)
    assert "add up to 0.60, so a flag tells no more than chance" in said(of)
    write_report(of.document, tmp_path / "out")


def test_too_many_false_flags_are_truncated_aloud(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=600, counts=Counts(TP=90, FN=10, TN=600, FP=400))
    of = report(runs, catalog)
    headline = of.findings.headline.cell
    assert isinstance(headline, Estimate)
    assert headline.value == 0
    assert "which is below nothing, and 0% is shown" in said(of)
    assert "With nobody affected, so few flags would be seen with a probability of" in said(of)


@pytest.mark.parametrize(
    "changes", [{"age": None}, {"sex": None}, {"site": None, "device": None}, {"acquired_at": None}]
)
def test_missing_facts_leave_a_report(tmp_path: Path, changes: dict[str, Any]) -> None:
    runs, catalog = archive(tmp_path, n=200, **changes)
    of = report(runs, catalog)
    assert isinstance(of.findings.headline.cell, Estimate)
    write_report(of.document, tmp_path / "out")


def test_dates_in_the_future_are_in_no_trend(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=200, acquired_at=datetime(2150, 1, 1))  # as MIMIC-IV shifts its dates
    of = report(runs, catalog)
    assert of.findings.trend.years == []
    assert any("dated after this report was made" in note for note in table(of, "flow").notes)
    assert isinstance(of.findings.headline.cell, Estimate)


def test_few_patients_give_a_report_without_figures(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=8)
    of = report(runs, catalog)
    assert isinstance(of.findings.headline.cell, Hidden)
    write_report(of.document, tmp_path / "out")
    assert small_numbers(json.loads((tmp_path / "out" / "report.json").read_text()), 10) == []


def test_nothing_published_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no published run; finish one with `screening run"):
        refresh(Folder(str(tmp_path)))


def test_a_period_with_nobody_is_a_report_of_nobody(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=100)
    of = report(runs, catalog, since=date(1990, 1, 1), until=date(1990, 12, 31))
    assert isinstance(of.findings.headline.cell, NotEstimable | Hidden)
    write_report(of.document, tmp_path / "out")


def test_every_index_rule_gives_its_own_report(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=800)
    found = {}
    for rule in ("latest", "first", "all"):
        of = report(runs, catalog, index_rule=rule)
        assert isinstance(of.findings.headline.cell, Estimate)
        found[rule] = of
    names = {of.release_name for of in found.values()}
    assert len(names) == 3  # each is held against its own last release
    assert found["all"].released.design_effect > 1
    assert (found["all"].findings.total.patients or 0) > (found["latest"].findings.total.patients or 0)


def test_two_models_are_each_corrected_with_their_own_counts(tmp_path: Path) -> None:
    rows, results, _ = people(2000, 5)
    half = len(rows) // 2
    catalog = write_catalog(tmp_path / "catalog", rows[:half])
    runs = Folder(str(tmp_path / "runs"))
    first = bundle_with(tmp_path / "one", GOOD)
    second = make_bundle(
        tmp_path / "two",
        version="2",
        operating_characteristics=OperatingCharacteristics("x", "y", Counts(TP=380, FN=120, TN=1820, FP=180), {}, {}),
    )
    for bundle in (first, second):
        store_bundle(runs, bundle)
    publish_run(runs, catalog, "run1", results, model=identity(first), shard_records=500)
    refresh(runs)
    catalog = write_catalog(tmp_path / "catalog", rows[half:])
    publish_run(runs, catalog, "run2", results, model=identity(second), shard_records=500)
    catalog = write_catalog(tmp_path / "catalog", rows)
    of = report(runs, catalog)
    assert [model.version for model in of.findings.models] == ["1", "2"]
    assert len(of.findings.correction.by_model) == 2
    headline = of.findings.headline.cell
    assert isinstance(headline, Estimate)
    assert headline.low < P < headline.high
    assert len(table(of, "by_model").rows) == 2
    write_report(of.document, tmp_path / "out")


def test_a_second_night_waits_until_enough_is_new(tmp_path: Path) -> None:
    rows, results, _ = people(1000, 7)
    catalog = write_catalog(tmp_path / "catalog", rows)
    runs = Folder(str(tmp_path / "runs"))
    bundle = bundle_with(tmp_path / "bundle", GOOD)
    store_bundle(runs, bundle)
    publish_run(runs, catalog, "run1", results, model=identity(bundle), shard_records=500)
    first = report(runs, catalog)
    keep_release(runs, first)
    assert (tmp_path / "runs" / first.release_name).stat().st_mode & 0o077 == 0

    def night(count: int, name: str) -> Report:
        new, found, _ = people(count, 99)
        new = [{**row, "record_id": f"n-{row['record_id']}", "patient_key": f"n-{row['patient_key']}"} for row in new]
        now = write_catalog(tmp_path / "catalog", [*rows, *new])
        publish_run(
            runs,
            now,
            name,
            {**results, **{f"n-{key}": value for key, value in found.items()}},
            model=identity(bundle),
            shard_records=500,
            finished_at="2026-01-02T00:00:00+00:00",
        )
        return report(runs, now)

    few = night(5, "run2")
    assert few.released.waits
    assert few.findings.total == first.findings.total
    assert [few.findings.groups[key] for key in ("sex", "age")] == [
        first.findings.groups[key] for key in ("sex", "age")
    ]
    assert "Too few patients are new since the last release" in said(few)
    before = (tmp_path / "runs" / first.release_name).read_bytes()
    keep_release(runs, few)
    assert (tmp_path / "runs" / first.release_name).read_bytes() == before
    many = night(400, "run3")
    assert not many.released.waits
    assert (many.findings.total.patients or 0) > (first.findings.total.patients or 0)


def test_a_damaged_ledger_is_one_sentence(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=100)
    of = report(runs, catalog)
    runs.write(of.release_name, b"{")
    with pytest.raises(UserError, match="which holds what was released last, cannot be read"):
        report(runs, catalog)
