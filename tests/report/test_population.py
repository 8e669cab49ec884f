from __future__ import annotations

import math
from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from screening.archive.catalog import Catalog
from screening.contract import LEADS, OPERATORS, TERRITORIES, importance_column
from screening.errors import UserError
from screening.report.facts import Frame, age_bands, clean_name, joined
from screening.report.population import check_identities, tally
from screening.report.tallies import OTHER, UNKNOWN, CountTable, Tallies
from screening.run.current import Current, forget, refresh
from screening.storage import Folder
from tests.published import publish_run, sha256, write_catalog

TODAY = date(2026, 6, 15)
EDGES = (0, 20, 60, 90)
BINS = np.array([-8.0, -1.0, 0.0, 1.0, 8.0])


def count(runs: Folder, catalog: Any, **options: Any) -> Tallies:
    given = {
        "today": TODAY,
        "age_edges": EDGES,
        "log_odds_edges": BINS,
        "feature_edges": {"noise_mV": np.array([0, 0.1, 0.2, 1.0]), "age": np.array([0, 50, 90.0]), "log_odds": BINS},
        "seen": {},
        "smallest_place": 1,
        "memory_mb": 256,
    }
    return counted(refresh(runs), catalog, **(given | options))


def counted(
    current: Current,
    catalog: Catalog,
    *,
    log_odds_edges: np.ndarray,
    feature_edges: dict[str, np.ndarray],
    seen: dict[str, set[str]],
    memory_mb: int = 256,
    **options: Any,
) -> Tallies:
    """Join and count."""
    rest = {"index_rule": "latest", "since": None, "until": None, "most_places": 20, "smallest_place": 20}
    with joined(current, catalog, Frame(**(rest | options)), features=feature_edges, memory_mb=memory_mb) as of:
        return tally(of, log_odds_edges=log_odds_edges, feature_edges=feature_edges, seen=seen)


def cells(table: CountTable) -> dict[str, dict[str, int]]:
    """Return the counts that are not 0."""
    found = {
        row: {column: int(n) for column, n in zip(table.columns, counts, strict=True) if n}
        for row, counts in zip(table.rows, table.counts, strict=True)
    }
    return {row: counts for row, counts in found.items() if counts}


# --- A small archive that has everything --------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Folder, Any]:
    """Two runs of two models, and a catalog that went on since."""
    runs = Folder(str(tmp_path / "runs"))

    def row(record_id: str, patient: str | None, day: str | None, **rest: Any) -> dict[str, Any]:
        acquired = None if day is None else datetime.fromisoformat(day)
        return {
            "record_id": record_id,
            "patient_key": patient,
            "acquired_at": acquired,
            "sex": "male",
            "age": 50.0,
        } | rest

    rows = [
        row("a1", "A", "2024-01-05", site="S1"),
        row("a2", "A", "2024-01-20", site="S1"),
        row("a3", "A", "2025-03-01", site="S2", age=91.0),
        row("b1", "B", "2024-02-01", sex="female", site="<script>"),
        row("b2", "B", "2024-02-01", sex="female", site="<script>"),  # the same instant: the smaller id counts
        row("c1", None, "2030-01-01", site=None, device="=cmd|x"),  # in the future
        row("c2", None, None, sex=None, age=None),
        row("d1", "D", "2025-03-02"),
        row("d2", "D", "2025-04-02"),  # a copy of d1
        row("e1", "E", "2025-05-01"),
        row("f1", "F", "2025-06-01"),
        row("g1", "G", "2025-06-01"),
    ]
    results = {
        "a1": {"probability": 0.9},
        "a2": {"probability": 0.8},
        "b1": {
            "probability": 0.9,
            "quality_flags": "noise,mains",
            **{f"importance_{lead}": n for n, lead in enumerate(LEADS)},
            **{f"territory_{wall}": -n for n, wall in enumerate(TERRITORIES)},
            **{importance_column("wave", part): n / 10 for n, part in enumerate(OPERATORS["wave"])},
        },
        "c1": {"probability": 1.0, "record_sha256": sha256("known")},
        "d1": {"record_sha256": sha256("same"), "noise_mV": 0.1},
        "d2": {"record_sha256": sha256("same"), "noise_mV": math.nan},
        "e1": {"status": "rejected", "reason": "noise"},
    }
    publish_run(runs, write_catalog(tmp_path / "c", rows), "one", results)
    later = [row("d1", "D", "2025-03-02"), row("g1", "G", "2025-06-01", version="0")]
    results = {"g1": {"probability": 0.7}, "d1": {"record_sha256": sha256("same")}}
    publish_run(runs, write_catalog(tmp_path / "c", later), "two", results, bundle="c", finished_at="2026-02-01")
    # Since: g1 changed on disk, f1 left the archive, h1 is new, a3's patient turned out to be another age.
    rows = [r for r in rows if r["record_id"] != "f1"] + [row("h1", "H", "2026-01-01")]
    return runs, write_catalog(tmp_path / "c", rows)


def test_every_record_and_patient_is_accounted_for(archive: tuple[Folder, Any]) -> None:
    runs, catalog = archive
    tallies = count(runs, catalog, seen={"b" * 64: [sha256("known"), sha256("a1")], "c" * 64: [sha256("b1")]})
    assert tallies.flow == {
        "catalogued": 12,
        "outside_period": 0,
        "not_screened": 1,  # h1
        "changed": 1,  # g1
        "rejected": 1,
        "scored": 9,
        "duplicates": 1,  # d2, of d1
        "repeats": 3,  # a1, a2, b2
        "index": 5,  # a3, b1, c1, c2, d1
        "patients_catalogued": 8,
        "patients_with_score": 5,
        "patients_without_score": 3,
        "undated": 1,
        "future_dated": 1,
        "without_patient_key": 2,
        "forgotten": 0,
        "gone": 1,  # f1
        "seen_in_training": 1,  # c1; a1 is no index ECG, b1 was seen by the other model only
    }
    assert [(m.version, m.run_ids) for m in tallies.models] == [("b", ("one",)), ("c", ("two",))]
    assert (tallies.first_acquired, tallies.last_acquired) == ("2024-01", "2026-01")
    assert cells(tallies.records["sex"]) == {
        "female": {"scored": 2},
        "male": {"scored": 6, "rejected": 1, "not_screened": 1, "changed": 1},
        UNKNOWN: {"scored": 1},
    }
    assert cells(tallies.reasons["all"]) == {"all": {"noise": 1}}
    assert cells(tallies.patients["all"]) == {"all": {"flagged 0": 2, "unflagged 0": 2, "unflagged 1": 1}}
    assert cells(tallies.patients["age and sex"]) == {
        "20-59|female": {"flagged 0": 1},
        "20-59|male": {"flagged 0": 1, "unflagged 1": 1},
        "90 and over|male": {"unflagged 0": 1},
        f"{UNKNOWN}|{UNKNOWN}": {"unflagged 0": 1},
    }
    assert cells(tallies.patients["year"]) == {
        "2024": {"flagged 0": 2},
        "2025": {"unflagged 0": 1, "unflagged 1": 1},
        UNKNOWN: {"flagged 0": 1, "unflagged 0": 1},
    }
    assert cells(tallies.patients["month"])["2024-01"] == {"flagged 0": 1}, "a patient once a month"
    assert tallies.records["month"].parents == ("2024", "2024", "2025", "2025", "2025", "2025", "2026", UNKNOWN)
    assert set(tallies.records["site"].rows) == {"S1", "<script>", "S2", UNKNOWN}
    assert tallies.records["device"].rows == ("=cmd|x", UNKNOWN)
    assert cells(tallies.quality_flags) == {
        name: ({"with": 1, "without": 8} if name in ("noise", "mains") else {"without": 9})
        for name in tallies.quality_flags.rows
    }


def test_distributions_count_what_they_say(archive: tuple[Folder, Any]) -> None:
    tallies = count(*archive)
    assert [h.counts.tolist() for h in tallies.scores] == [
        [2, 0, 0, 2],
        [1, 0, 0, 0],
    ]  # c1 at probability 1 is in the last
    noise = tallies.features["noise_mV"]
    assert noise["one"].counts.tolist() == [0, 0, 0]
    assert noise["one"].missing == 8, "NaN and null are missing"
    assert noise["two"].missing == 1
    assert tallies.features["age"]["one"].counts.tolist() == [0, 7]
    groups = [("all", "all"), ("sex", "female"), ("site", "<script>")]
    for operator in ("territory", "wave", "lead"):
        of = [one for one in tallies.importance if one.operator == operator]
        assert [(one.dimension, one.category, one.patients) for one in of] == [(*group, 1) for group in groups]
        assert np.isnan(of[0].sd).all()
    every = {one.operator: one for one in tallies.importance if one.dimension == "all"}
    assert every["lead"].mean.tolist() == list(range(12))
    assert every["lead"].leading.tolist() == [0] * 11 + [1]
    assert every["territory"].mean.tolist() == [0, -1, -2, -3]
    assert every["territory"].leading.tolist() == [0, 0, 0, 0, 1], "none is above zero"
    assert every["wave"].mean.tolist() == pytest.approx([n / 10 for n in range(16)])
    assert every["wave"].leading.tolist() == []


def test_each_operator_counts_whom_it_explained(tmp_path: Path) -> None:
    """Leads of all six flagged patients, territories of four, waves of two; another patient is explained, but not flagged."""
    lead = {f"importance_{name}": 0.0 for name in LEADS}
    results: dict[str, dict[str, Any]] = {}
    for n in range(7):
        row: dict[str, Any] = {"probability": 0.9 if n < 6 else 0.1, **lead, "importance_V3": float(n)}
        if n < 4 or n == 6:
            row |= {f"territory_{wall}": float(n) for wall in TERRITORIES}
            row["leading_territory"] = ("septal", "inferior", "inferior", None, None, None, "lateral")[n]
        if n in (0, 3, 6):
            row |= {importance_column("wave", part): 0.5 for part in OPERATORS["wave"]}
        results[f"r{n}"] = row
    catalog = write_catalog(tmp_path / "c", [{"record_id": name} for name in results])
    runs = Folder(str(tmp_path / "runs"))
    publish_run(runs, catalog, "a", results)
    every = {one.operator: one for one in count(runs, catalog).importance if one.dimension == "all"}
    assert {operator: one.patients for operator, one in every.items()} == {"territory": 4, "wave": 2, "lead": 6}
    assert every["territory"].leading.tolist() == [1, 0, 0, 2, 1]
    assert every["territory"].mean.tolist() == [1.5] * 4
    assert every["territory"].sd.tolist() == pytest.approx([np.std([0, 1, 2, 3], ddof=1)] * 4)
    assert every["lead"].leading.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0], "of the first all are 0"
    assert every["wave"].mean.tolist() == [0.5] * 16


def test_bins_start_at_their_edge(tmp_path: Path) -> None:
    values = [-5.0, 0.0, 0.1, 0.2, 0.2999, 0.3, 7.0, math.inf, None]
    catalog = write_catalog(tmp_path / "c", [{"record_id": f"r{n}"} for n in range(len(values))])
    runs = Folder(str(tmp_path / "runs"))
    publish_run(runs, catalog, "a", {f"r{n}": {"baseline_mV": value} for n, value in enumerate(values)})
    edges = np.float32([0, 0.1, 0.2, 0.3]).astype(np.float64)
    found = count(runs, catalog, feature_edges={"baseline_mV": edges, "noise_mV": np.array([0.0, 1.0])}).features
    assert found["baseline_mV"]["a"].counts.tolist() == [2, 1, 5]
    assert found["baseline_mV"]["a"].missing == 1
    assert found["noise_mV"]["a"].counts.tolist() == [0]
    assert found["noise_mV"]["a"].missing == 9


def test_the_first_ecg_can_stand_for_a_patient(archive: tuple[Folder, Any]) -> None:
    tallies = count(*archive, index_rule="first")
    assert cells(tallies.patients["year"])["2024"] == {"flagged 0": 2}
    assert cells(tallies.patients["all"]) == {"all": {"flagged 0": 3, "unflagged 0": 1, "unflagged 1": 1}}


def test_a_period_leaves_out_what_is_not_surely_in_it(archive: tuple[Folder, Any]) -> None:
    tallies = count(*archive, since=date(2024, 1, 20), until=date(2025, 3, 1))
    assert (tallies.flow["outside_period"], tallies.flow["scored"], tallies.flow["index"]) == (8, 4, 2)
    assert tallies.flow["patients_catalogued"] == 2
    assert tallies.flow["undated"] == 1
    with pytest.raises(UserError, match=r"ends \(2024-01-01\) before it starts \(2025-01-01\)"):
        count(*archive, since=date(2025, 1, 1), until=date(2024, 1, 1))


def test_of_copies_one_in_the_frame_stands_for_all(archive: tuple[Folder, Any]) -> None:
    runs, catalog = archive
    tallies = count(runs, catalog, since=date(2025, 4, 1), until=date(2025, 4, 30))  # only the copy d2
    assert (tallies.flow["duplicates"], tallies.flow["index"]) == (0, 1)


def test_the_forgotten_are_in_no_count_but_one(archive: tuple[Folder, Any]) -> None:
    runs, catalog = archive
    forget(runs, record_ids=["c1"], patient_keys=["A"])
    flow = count(runs, catalog).flow
    assert (flow["forgotten"], flow["catalogued"], flow["scored"], flow["patients_catalogued"]) == (4, 8, 5, 6)


def test_small_places_are_pooled_and_hostile_names_cleaned(tmp_path: Path) -> None:
    sites = (
        ["big"] * 5
        + ["mid"] * 3
        + ["mi\x00d\u202e"] * 2
        + ["tiny"]
        + ["x" * 200] * 3
        + ["  ", "\x01", None]
        + [UNKNOWN]
    )
    catalog = write_catalog(tmp_path / "c", [{"record_id": f"r{n:02d}", "site": site} for n, site in enumerate(sites)])
    runs = Folder(str(tmp_path / "runs"))
    publish_run(runs, catalog, "a")
    table = count(runs, catalog, smallest_place=2, most_places=3).records["site"]
    assert cells(table) == {
        "big": {"scored": 5},
        "mid": {"scored": 3},
        "x" * 79 + "…": {"scored": 3},
        OTHER: {"scored": 3},  # "mi d" is a fourth, "tiny" is one
        UNKNOWN: {"scored": 4},
    }
    assert table.rows[-2:] == (OTHER, UNKNOWN)


def test_names() -> None:
    assert clean_name("AT-6     6") == "AT-6     6", "as the bundle's subgroups spell it"
    assert clean_name("\x1b[31mred\u2028\ud800") == "[31mred"
    assert age_bands((0, 18)) == ("0-17", "18 and over", UNKNOWN)


def test_impossible_ages_are_unknown(tmp_path: Path) -> None:
    ages = [-1.0, 0.0, 19.99, 20.0, 89.9, 90.0, 300.0, math.nan, None]
    catalog = write_catalog(tmp_path / "c", [{"record_id": f"r{n}", "age": age} for n, age in enumerate(ages)])
    runs = Folder(str(tmp_path / "runs"))
    publish_run(runs, catalog, "a")
    found = {row: n["scored"] for row, n in cells(count(runs, catalog).records["age"]).items()}
    assert found == {"0-19": 2, "20-59": 1, "60-89": 1, "90 and over": 1, UNKNOWN: 4}


def test_nobody_scored_still_adds_up(tmp_path: Path) -> None:
    runs, catalog = (
        Folder(str(tmp_path / "runs")),
        write_catalog(tmp_path / "c", [{"record_id": "a"}, {"record_id": "b"}]),
    )
    publish_run(
        runs, write_catalog(tmp_path / "d", [{"record_id": "a"}]), "a", {"a": {"status": "rejected", "reason": "noise"}}
    )
    for rule in ("latest", "all"):
        tallies = count(runs, catalog, index_rule=rule)
        assert tallies.models == ()
        assert tallies.flow["index"] == 0
        assert tallies.patients["sex"].counts.shape == (2 + 1, 0)
    nothing = count(runs, write_catalog(tmp_path / "d", [{"record_id": "z"}]))
    assert (nothing.flow["not_screened"], nothing.flow["gone"]) == (1, 1)


def test_tallies_that_do_not_add_up_are_refused(archive: tuple[Folder, Any]) -> None:
    tallies = count(*archive)
    check_identities(tallies, "latest")
    for harm in ({"scored": 8}, {"index": 4}, {"patients_catalogued": 9}, {"repeats": 2}):
        broken = Tallies(**(vars(tallies) | {"flow": {**tallies.flow, **harm}}))
        with pytest.raises(ArithmeticError, match="the tallies do not add up"):
            check_identities(broken, "latest")


def test_damaged_results_are_one_sentence(archive: tuple[Folder, Any]) -> None:
    runs, catalog = archive
    current = refresh(runs)
    options: dict[str, Any] = {
        "today": TODAY,
        "age_edges": EDGES,
        "log_odds_edges": BINS,
        "feature_edges": {},
        "seen": {},
    }
    name = "one/results/part-00001.parquet"
    whole, short = runs.read(name), runs.read("two/results/part-00000.parquet")
    runs.write(name, short)
    with pytest.raises(UserError, match=r"part-00001\.parquet has not the rows that its manifest says"):
        counted(current, catalog, **options)
    for damaged in (whole[:-20], b""):
        runs.write(name, damaged)
        with pytest.raises(UserError, match="cannot be read"):
            counted(current, catalog, **options)
    Path(runs.path(name)).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        counted(current, catalog, **options)


def test_it_reads_from_s3(s3: dict[str, Any], archive: tuple[Folder, Any], tmp_path: Path) -> None:
    local, catalog = archive
    runs = Folder("s3://screening/some [runs]", s3)
    for path in sorted(Path(local.path("")).rglob("*")):
        if path.is_file():
            runs.write(str(path.relative_to(local.path(""))), path.read_bytes())
    rows = [row for batch in catalog.iter_batches() for row in batch.to_pylist()]
    remote = write_catalog("s3://screening/catalog", rows, storage_options=s3)
    here, there = count(local, catalog), count(runs, remote)
    assert there.flow == here.flow
    assert {k: cells(t) for k, t in there.patients.items()} == {k: cells(t) for k, t in here.patients.items()}


# --- Against pandas -----------------------------------------------------------------------------------------------------


RECORD = st.fixed_dictionaries(
    {
        "patient_key": st.sampled_from([None, "A", "B", "C", "D"]),
        "acquired_at": st.sampled_from(
            [None, *(datetime(2024, 1, 1) + timedelta(days=d, hours=d % 5) for d in (0, 0, 10, 40, 200, 400, 3000))]
        ),
        "age": st.sampled_from([None, 5.0, 33.0, 90.0]),
        "sex": st.sampled_from([None, "female", "male"]),
        "site": st.sampled_from([None, "x", "y"]),
        "bytes": st.integers(0, 12),
        "probability": st.sampled_from([0.1, 0.7]),
        "state": st.sampled_from(["scored", "scored", "scored", "rejected", "changed", "not_screened"]),
    }
)


def plainly(records: list[dict[str, Any]], rule: str) -> dict[str, Any]:
    """Return what `tally` should count, one record after the other."""
    frame = pd.DataFrame(records)
    scored = frame[frame.state == "scored"].sort_values("record_id")
    unique = scored.drop_duplicates("bytes").copy()
    unique["person"] = unique.patient_key.fillna(unique.record_id)
    tomorrow = pd.Timestamp(TODAY) + pd.Timedelta(days=1)
    unique["day"] = pd.to_datetime(unique.acquired_at)
    usable = unique.day < tomorrow
    unique["month"] = unique.day.dt.strftime("%Y-%m").where(usable, UNKNOWN)
    unique["year"] = unique.month.where(unique.month == UNKNOWN, unique.month.str[:4])
    # First by preference; pandas' sorts are stable, and record_id already ascends.
    far = pd.Timestamp("2200-01-01") if rule == "first" else pd.Timestamp("1800-01-01")
    unique["order"] = unique.day.fillna(far).astype("datetime64[us]")
    unique["usable"] = usable
    ranked = unique.sort_values("order", ascending=rule == "first", kind="stable").sort_values(
        "usable", ascending=False, kind="stable"
    )
    chosen = ranked if rule == "all" else ranked.drop_duplicates("person")

    def by(column: str, rows: pd.DataFrame) -> dict[str, int]:
        return dict(
            Counter(
                f"{c}/{'flagged' if p >= 0.5 else 'unflagged'} 0"
                for c, p in zip(rows[column].fillna(UNKNOWN), rows.probability, strict=True)
            )
        )

    monthly = ranked if rule == "all" else ranked.drop_duplicates(["person", "month"])
    yearly = ranked if rule == "all" else ranked.drop_duplicates(["person", "year"])
    return {
        "outcomes": dict(Counter(frame.state)),
        "duplicates": len(scored) - len(unique),
        "index": len(chosen),
        "patients": len(set(frame.patient_key.fillna(frame.record_id))),
        "sex": by("sex", chosen),
        "site": by("site", chosen),
        "year": by("year", yearly),
        "month": by("month", monthly),
    }


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RECORD, min_size=1, max_size=25), st.sampled_from(["latest", "first", "all"]), st.booleans())
def test_counts_are_those_of_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[dict[str, Any]], rule: str, two_runs: bool
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    records = [{"record_id": f"r{n:02d}", **record} for n, record in enumerate(drawn)]
    runs = Folder(str(folder / "runs"))
    columns = ("record_id", "patient_key", "acquired_at", "age", "sex", "site")
    rows = [{name: record[name] for name in columns} for record in records]
    planned = [
        row | {"version": "old" if record["state"] == "changed" else "1"}
        for row, record in zip(rows, records, strict=True)
        if record["state"] != "not_screened"
    ]
    results = {
        record["record_id"]: {
            "probability": record["probability"],
            "record_sha256": sha256(str(record["bytes"])),
            **({"status": "rejected", "reason": "noise"} if record["state"] == "rejected" else {}),
        }
        for record in records
    }
    if planned:
        if two_runs:  # of which the second supersedes all of the first
            wrong = {record_id: {"probability": 0.99} for record_id in results}
            publish_run(runs, write_catalog(folder / "c", planned), "a", wrong)
        publish_run(runs, write_catalog(folder / "c", planned), "b", results, finished_at="2026-02-01")
    else:
        publish_run(runs, write_catalog(folder / "c", [{"record_id": "gone"}]), "a")
    tallies = count(runs, write_catalog(folder / "c", rows), index_rule=rule)
    expected = plainly(records, rule)
    assert {
        k: tallies.flow[k] for k in ("scored", "rejected", "changed", "not_screened") if tallies.flow[k]
    } == expected["outcomes"]
    assert tallies.flow["duplicates"] == expected["duplicates"]
    assert tallies.flow["index"] == expected["index"]
    assert tallies.flow["patients_catalogued"] == expected["patients"]
    for dimension in ("sex", "site", "year", "month"):
        found = cells(tallies.patients[dimension])
        assert {f"{row}/{column}": n for row, counts in found.items() for column, n in counts.items()} == expected[
            dimension
        ]


def test_the_design_effect_is_that_of_a_bootstrap_of_patients(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    rows, results = [], {}
    for patient in range(600):
        chance = random.beta(0.5, 1.5)
        for ecg in range(int(random.integers(1, 6))):
            rows.append({"record_id": f"{patient:03d}-{ecg}", "patient_key": str(patient)})
            results[rows[-1]["record_id"]] = {"probability": 0.9 if random.random() < chance else 0.1}
    runs, catalog = Folder(str(tmp_path / "runs")), write_catalog(tmp_path / "c", rows)
    publish_run(runs, catalog, "a", results, shard_records=512)
    effect = count(runs, catalog, index_rule="all").clustering["all"]
    flagged = np.array([results[row["record_id"]]["probability"] > 0.5 for row in rows])
    person = np.array([int(row["patient_key"]) for row in rows])
    y, m = np.bincount(person, flagged), np.bincount(person)
    drawn = random.integers(0, 600, (20_000, 600))
    shares = y[drawn].sum(axis=1) / m[drawn].sum(axis=1)
    independent = flagged.mean() * (1 - flagged.mean()) / len(flagged)
    assert effect == pytest.approx(shares.var() / independent, rel=0.04)
    assert effect > 1.5


def test_patients_are_counted_by_what_breaks_conduction(tmp_path: Path) -> None:
    """One kind each, the most telling: a pacemaker before a bundle branch block, that before a wide QRS complex."""
    stated: dict[str, dict[str, Any]] = {
        "paced": {"paced": True, "lbbb": True, "wpw": False, "qrs_ms": 160.0},
        "LBBB": {"paced": False, "lbbb": True, "wpw": False, "qrs_ms": 150.0},
        "pre-excitation": {"paced": False, "lbbb": False, "wpw": True, "qrs_ms": None},
        "other QRS of 120 ms or more": {"paced": False, "lbbb": False, "wpw": False, "qrs_ms": 120.0},
        "none of these": {"paced": False, "lbbb": False, "wpw": False, "qrs_ms": 119.0},
        UNKNOWN: {"paced": None, "lbbb": None, "wpw": None, "qrs_ms": None},
    }
    rows = [
        {
            "record_id": f"r{i}",
            "patient_key": f"p{i}",
            "acquired_at": datetime(2024, 1, 1 + i),
            "sex": "male",
            "age": 50.0,
        }
        | of
        for i, of in enumerate(stated.values())
    ]
    runs, catalog = Folder(str(tmp_path / "runs")), write_catalog(tmp_path / "c", rows)
    publish_run(runs, catalog, "one", {f"r{i}": {"probability": 0.9 if i < 2 else 0.1} for i in range(len(rows))})
    found = cells(count(runs, catalog).patients["conduction"])
    assert {kind: sum(columns.values()) for kind, columns in found.items()} == dict.fromkeys(stated, 1)
    flagged = {kind for kind, columns in found.items() if "flagged 0" in columns}
    assert flagged == {"paced", "LBBB"}
