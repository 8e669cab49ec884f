"""Every command on an object store that is reached through a proxy which fails a few percent of requests, or all of them."""

from __future__ import annotations

import csv
import io
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

from screening.cli import main
from tests.bundles import make_bundle
from tests.faults.proxy import KINDS, FaultyProxy

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(600)]
RECORDS = 24
ROOT = "s3://screening"
OPTIONS = ("--attribution", "all", "--donors", "2", "--operators", "lead", "--shard-records", "4")


@dataclass
class Store:
    """An object store behind a proxy, and the commands that use it."""

    proxy: FaultyProxy
    fs: Any  # past the proxy
    folder: Path
    capsys: pytest.CaptureFixture[str]

    def screening(self, *words: str) -> tuple[int, str, str]:
        """Return the exit code, output and error output of a command."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        printed = self.capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    def ok(self, *words: str) -> str:
        """Return the output of a command that must end well."""
        code, out, err = self.screening(*words)
        assert code == 0, f"{words[0]}: exit code {code}: {out}{err}"
        return out

    def catalog(self, name: str) -> str:
        out = f"{ROOT}/{name}/catalog"
        table = f"{ROOT}/tables/ptbxl_database.csv"
        self.ok(
            "catalog", f"{ROOT}/archive", "--out", out, "--metadata", table, "--labels", "ptbxl-mi", "--deidentified"
        )
        return out

    def run(self, catalog: str, runs: str, *, attempts: int = 6) -> tuple[int, str, str]:
        settings = self.folder / "settings.yaml"
        settings.write_text(f"donor_set: 4\nstorage_attempts: {attempts}\n")
        places = ("--catalog", catalog, "--out", runs, "--model", f"{ROOT}/bundle", "--config", str(settings))
        return self.screening("run", *places, *OPTIONS, "--json")

    def results(self, runs: str) -> dict[str, str]:
        """Return what is stored of the results, by name below the runs."""
        root = runs.removeprefix("s3://")
        names = [name for name in self.fs.find(root) if "/results/" in name or "/plan" in name]
        return {name.removeprefix(f"{root}/"): self.fs.cat_file(name).hex() for name in names}


@pytest.fixture
def store(
    s3: dict[str, Any], ptbxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    fs = fsspec.filesystem("s3", **s3)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    names = (ptbxl / "RECORDS").read_text().split()[:RECORDS]
    for name in names:
        for suffix in (".hea", ".dat"):
            fs.pipe_file(f"screening/archive/{name}{suffix}", (ptbxl / (name + suffix)).read_bytes())
    rows = list(csv.DictReader(io.StringIO((ptbxl / "ptbxl_database.csv").read_text())))
    kept = io.StringIO()
    writer = csv.DictWriter(kept, list(rows[0]))
    writer.writeheader()
    writer.writerows(row for row in rows if row["filename_hr"] in names)
    fs.pipe_file("screening/tables/ptbxl_database.csv", kept.getvalue().encode())
    fs.pipe_file("screening/tables/scp_statements.csv", (ptbxl / "scp_statements.csv").read_bytes())
    bundle = make_bundle(tmp_path / "bundle", threshold=0.35)
    for file in bundle.path.iterdir():
        fs.pipe_file(f"screening/bundle/{file.name}", file.read_bytes())
    with FaultyProxy(s3["endpoint_url"], seed=1, stall_s=4.0) as proxy:
        waits = {"connect_timeout": 2, "read_timeout": 2}
        options = s3 | {"endpoint_url": proxy.url, "config_kwargs": waits}
        monkeypatch.setenv("SCREENING_STORAGE_OPTIONS", json.dumps(options))
        monkeypatch.setenv("SCREENING_STATE", str(tmp_path / "state"))
        yield Store(proxy, fs, tmp_path, capsys)


@pytest.mark.long
def test_a_store_that_fails_now_and_then_costs_requests_and_nothing_else(store: Store) -> None:
    catalog, runs = store.catalog("calm"), f"{ROOT}/calm/runs"
    code, out, err = store.run(catalog, runs)
    assert code == 0, err
    calm, requests = json.loads(out), store.proxy.requests
    assert (calm["published"], calm["records"], calm["unfinished"]) == (True, RECORDS, [])

    store.proxy.share = 0.05
    rough = store.catalog("rough")
    code, out, err = store.run(rough, f"{ROOT}/rough/runs")
    for _ in range(3):  # a shard that met with six faults in a row is left, and resumed
        if code == 3:
            code, out, err = store.run(rough, f"{ROOT}/rough/runs")
    assert code == 0, err
    spent = store.proxy.requests - requests
    assert set(store.proxy.done) == {"passed", *KINDS}
    assert store.proxy.faults > 10
    assert spent < 2.5 * requests, f"{spent} requests with faults, {requests} without"
    assert json.loads(out)["run_id"] == calm["run_id"]
    assert store.results(f"{ROOT}/rough/runs") == store.results(runs)
    assert b"secret" not in store.fs.cat_file(f"screening/rough/runs/{calm['run_id']}/manifest.json")
    left = store.fs.find("screening/rough/runs")
    assert [name for name in left if "/begun/" in name] == []
    assert sorted(name for name in left if "/lease/" in name)[-1].endswith(".released")

    run = f"{ROOT}/rough/runs/{calm['run_id']}"
    assert json.loads(store.ok("status", run, "--json"))["done"] == RECORDS
    assert json.loads(store.ok("verify", run, "--sample", "3", "--json")) == {
        "run": run,
        "whole": True,
        "faults": [],
        "scored_again": 3,
        "gone": 0,
    }
    assert (
        store.ok("failures", run) == f"{calm['counts']['rejected']:,} rejected records\n" or calm["counts"]["rejected"]
    )
    record = store.fs.find("screening/archive")[0].removeprefix("screening/archive/").rsplit(".", 1)[0]
    places = ("--runs", f"{ROOT}/rough/runs", "--catalog", rough)
    assert json.loads(store.ok("explain", record, *places, "--json"))
    store.ok("report", *places, "--out", f"{ROOT}/rough/report", "--no-mlflow")
    assert b"<svg" in store.fs.cat_file("screening/rough/report/report.html")


@pytest.mark.long
@pytest.mark.parametrize("after", [40, 150])  # requests: while donors are read, and while records are
def test_a_store_that_fails_for_good_ends_the_run_in_time_and_it_resumes(store: Store, after: int) -> None:
    catalog, runs = store.catalog("calm"), f"{ROOT}/calm/runs"
    store.proxy.kinds = ("500", "503", "reset", "lost")  # stalls alone take two minutes, by design
    store.proxy.fail_after = after
    begun = time.monotonic()
    code, out, err = store.run(catalog, runs, attempts=2)
    assert time.monotonic() - begun < 180
    assert code == 3, err
    assert "start the same command again" in err or json.loads(out)["unfinished"]
    assert "Traceback" not in err
    store.proxy.fail_after = None
    code, out, err = store.run(catalog, runs)
    assert code == 0, err
    assert json.loads(out)["published"]
    whole = f"{ROOT}/fresh/runs"
    assert store.run(catalog, whole)[0] == 0
    assert store.results(runs) == store.results(whole)
