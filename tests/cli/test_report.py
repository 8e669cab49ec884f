"""``screening report`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from screening.cli.report import command
from screening.errors import UserError
from tests.report.test_report import archive


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(command, [*map(str, arguments), "--no-mlflow"], standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.stdout


def test_it_writes_a_report_and_apart_from_it_a_private_list(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=400)
    out = tmp_path / "report"
    text = run("--runs", runs.url, "--catalog", catalog.path, "--out", out)
    assert "<- the estimate" in text
    assert f"Report: {out}/report.html" in text
    assert "Nobody has read a sample of these ECGs" in text
    assert {path.name for path in out.iterdir()} == {"report.html", "report.json", "tables", "private"}
    assert (out / "private").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (out / "private").iterdir()} == {0o600}
    shared = "".join(path.read_text() for path in out.rglob("*") if path.is_file() and path.parent.name != "private")
    assert "r00000-0" not in shared  # no record, no patient
    assert "p1" not in json.loads((out / "report.json").read_text()).values()


def test_json_has_the_figures_and_the_paths(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=400)
    out = tmp_path / "report"
    facts = json.loads(run("--runs", runs.url, "--catalog", catalog.path, "--out", out, "--no-worklist", "--json"))
    assert facts["prevalence_low"] < facts["prevalence"] < facts["prevalence_high"]
    assert facts["worklist"] is None
    assert facts["waits"] is False
    assert Path(facts["report"]["html"]).exists()
    assert not (out / "private").exists()
    again = json.loads(run("--runs", runs.url, "--catalog", catalog.path, "--out", out, "--no-worklist", "--json"))
    assert {**again, "waits": False} == facts  # the same patients: the release stands


def test_a_reference_population_and_a_period_can_be_given(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=600)
    population = tmp_path / "town.csv"
    population.write_text("# name: the town\n# source: its census\nage_from,weight\n0,30\n40,40\n60,30\n")
    out = tmp_path / "report"
    run(
        *("--runs", runs.url, "--catalog", catalog.path, "--out", out, "--reference-population", population),
        *("--since", "2016-01-01", "--until", "2018-12-31", "--no-worklist"),
    )
    page = (out / "report.html").read_text()
    assert "Standardised by age to the the town" not in page
    assert "the town" in page
    assert "its census" in page
    assert "2016-01-01 to 2018-12-31" in page


def test_a_period_that_ends_before_it_starts_is_refused(tmp_path: Path) -> None:
    runs, catalog = archive(tmp_path, n=20)
    with pytest.raises(UserError, match=r"the period ends \(2015-01-01\) before it starts \(2016-01-01\)"):
        run(
            *("--runs", runs.url, "--catalog", catalog.path, "--out", tmp_path / "o"),
            *("--since", "2016-01-01", "--until", "2015-01-01"),
        )
