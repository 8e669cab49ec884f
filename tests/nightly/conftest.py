"""An archive that grows from night to night, two models, a registry, and a night's work on them."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from screening.archive.catalog import Catalog
from screening.archive.identity import PseudonymKey
from screening.model.bundle import Bundle, Counts, OperatingCharacteristics, load_bundle
from screening.nightly import night as night_module
from screening.nightly import screening
from screening.nightly.night import Around, Ended, run_night
from screening.nightly.settings import NightlySettings
from screening.run.bundles import store_bundle
from screening.run.current import open_current
from screening.run.ledger import read_manifest
from screening.run.pipeline import Progress, RunOutcome
from screening.run.plan import make_plan
from screening.storage import Folder
from screening.train.registry import register, resolve
from tests.bundles import make_bundle, tiny_network
from tests.published import publish_run
from tests.train.conftest import mlflow_server, mlflow_template, mlflow_uri

__all__ = ["mlflow_server", "mlflow_template", "mlflow_uri"]

RUN = {"attribution": "none", "shard_records": 8, "workers": 1, "batch_size": 8}
REPORTING = {"exact": True, "draws": 500, "worklist_plots": 2}


def bundles_of(folder: Path, name: str) -> tuple[Bundle, Bundle]:
    """Return two versions of a model that flag differently and err differently."""

    def version(number: int, threshold: float, counts: Counts) -> Bundle:
        return make_bundle(
            folder / str(number),
            name=name,
            version=str(number),
            threshold=threshold,
            network=tiny_network(number),
            operating_characteristics=OperatingCharacteristics(
                data="made up", reference="made up", overall=counts, subgroups={}, figures={}
            ),
        )

    return (
        version(1, 0.387, Counts(TP=180, FN=20, TN=190, FP=10)),
        version(2, 0.4067, Counts(TP=150, FN=50, TN=198, FP=2)),
    )


@dataclass
class World:
    """A place in which nights are worked through."""

    folder: Path
    source: Path  # an archive laid out as PTB-XL is
    bundle: Bundle
    settings: dict[str, Any] = field(default_factory=dict)
    tracking_uri: str = ""
    storage_options: dict[str, Any] = field(default_factory=dict)
    log: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    on_progress: Callable[[Progress], None] = lambda _: None
    model: Callable[[], Bundle] | None = None  # None: `bundle`
    key: Callable[[], PseudonymKey | None] = lambda: None
    ends: list[Ended] = field(default_factory=list)  # what was heard of each attempt's end

    @property
    def archive(self) -> Path:
        """The archive, which `grow` makes."""
        return self.folder / "archive"

    @property
    def runs(self) -> Folder:
        """Where runs are."""
        return Folder(str(self.folder / "runs"))

    def grow(self, records: int) -> None:
        """Let the archive hold the first so many of the source's records, newer ones later."""
        rows = list(csv.reader(io.StringIO((self.source / "ptbxl_database.csv").read_text())))
        at = rows[0].index("filename_hr")
        with (self._made() / "ptbxl_database.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows[: records + 1])
        for row in rows[1 : records + 1]:
            for suffix in (".hea", ".dat"):
                target = self.archive / f"{row[at]}{suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    shutil.copy2(self.source / f"{row[at]}{suffix}", target)

    def _made(self) -> Path:
        self.archive.mkdir(exist_ok=True)
        shutil.copy(self.source / "scp_statements.csv", self.archive)
        return self.archive

    def exchange(self, number: int, other: int) -> str:
        """Give a record the samples of another, and return its id."""
        paths = sorted(self.archive.rglob("*.hea"))
        paths[number].with_suffix(".dat").write_bytes(
            next(self.source.rglob(paths[other].with_suffix(".dat").name)).read_bytes()
        )
        return str(paths[number].relative_to(self.archive).with_suffix(""))

    def given(self, **changes: Any) -> dict[str, Any]:
        """Return the settings of a night here, as a file of settings would hold them."""
        return {
            "archive": str(self.archive),
            "catalog": str(self.folder / "catalog"),
            "runs": str(self.folder / "runs"),
            "report": str(self.folder / "report"),
            "deidentified": True,
            "labels": "ptbxl-mi",
            "worklist": False,
            "mlflow": bool(self.tracking_uri),
            "run": RUN,
            "reporting": REPORTING,
            **self.settings,
            **changes,
        }

    def night(self, day: str | date, *, again: bool = False, **changes: Any) -> Ended:
        """Do a night's work."""
        return run_night(
            NightlySettings.model_validate(self.given(**changes)),
            self.model or (lambda: self.bundle),
            date.fromisoformat(str(day)),
            Around(
                clock=lambda: datetime.now(UTC),
                record=lambda event, what: self.log.append((event, what)),
                tracking_uri=self.tracking_uri,
                storage_options=self.storage_options,
                on_progress=self.on_progress,
                on_end=self.ends.append,
                key=self.key,
            ),
            again=again,
        )

    def events(self, event: str) -> list[Mapping[str, Any]]:
        """Return what was logged of an event."""
        return [what for name, what in self.log if name == event]

    def rows(self, run_id: str) -> pd.DataFrame:
        """Return the results of a run, read as a user would."""
        run = Path(self.folder / "runs" / run_id)
        manifest = read_manifest(Folder(str(run))) or {}
        return pd.concat(pd.read_parquet(run / file["name"]) for file in manifest["files"]).set_index("record_id")

    def standing(self) -> pd.DataFrame:
        """Return the row that counts of every record, by reading the index and the files it points to."""
        current = open_current(self.runs)
        assert current is not None
        index = pd.read_parquet(current.folder.path(current.files["index.parquet"]["path"]))
        runs = {run.run_id: self.rows(run.run_id) for run in current.indexed}
        found = [runs[current.indexed[row.run].run_id].loc[[row.record_id]] for row in index.itertuples()]
        return pd.concat(found)


@pytest.fixture
def world(ptbxl: Path, tmp_path: Path) -> World:
    """Return a place with a model in a folder, without a registry."""
    return World(tmp_path, ptbxl, bundles_of(tmp_path / "bundles", "tiny")[0])


@pytest.fixture(scope="session")
def registered(
    mlflow_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[str, Bundle, Bundle]]:
    """Return a function that registers two versions of a model of that name at a real MLflow server."""

    def make(name: str) -> tuple[str, Bundle, Bundle]:
        folder = tmp_path_factory.mktemp("registered")
        made = bundles_of(folder, name)
        for bundle in made:
            register(bundle, tracking_uri=mlflow_server, run_name=name, parameters={}, figures={}, tags={})
        fetched = [
            load_bundle(resolve(f"models:/{name}/{at}", tracking_uri=mlflow_server, cache_folder=folder / "cache"))
            for at in (1, 2)
        ]
        return mlflow_server, fetched[0], fetched[1]

    return make


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let nights publish made-up results at once; return the record ids of each run that they ask for, as they do."""
    asked: list[list[str]] = []

    def publish(
        catalog: Catalog, runs_url: str, *, model_path: str, on_plan: Callable[[Any], None], **how: Any
    ) -> RunOutcome:
        bundle, runs = load_bundle(model_path), Folder(runs_url)
        catalog = catalog.without(*forgotten_of(runs))
        asked.append([one for batch in catalog.iter_batches(["record_id"]) for one in batch["record_id"].to_pylist()])
        plan = make_plan(
            catalog,
            model={
                "name": bundle.name,
                "version": bundle.version,
                "bundle_sha256": bundle.sha256,
                "input_contract_sha256": bundle.input_contract_sha256,
            },
            donor_set=None,
            settings=how["settings"],
            quality={},
            shard_records=8,
            fingerprint={"device": "cpu"},
        )
        store_bundle(runs, bundle)
        if already := runs.exists(f"{plan.run_id}/manifest.json"):
            counts = (read_manifest(runs.folder(plan.run_id)) or {})["counts"]
            return RunOutcome(f"{runs.url}/{plan.run_id}", plan.run_id, plan.records, counts, True, already)
        on_plan(plan)
        at = f"2026-11-21T00:{len(asked):02d}:00+00:00"
        run = publish_run(runs, catalog, plan.run_id, model=plan.model, shard_records=8, finished_at=at)
        counts = {"scored": plan.records, "rejected": 0, "flagged": 0, "explained": 0, "reasons": {}}
        return RunOutcome(
            run.url,
            plan.run_id,
            plan.records,
            counts,
            published=True,
            this_time=plan.records,
            seconds=plan.records / RATE,
        )

    monkeypatch.setattr(screening, "screen", publish)
    monkeypatch.setattr(night_module, "cluster", lambda *_args, **_options: nullcontext())
    return asked


RATE = 2.0
"""Records a second of nights without Ray."""


def forgotten_of(runs: Folder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    current = open_current(runs)
    return (current.forgotten_records, current.forgotten_patients) if current else ((), ())
