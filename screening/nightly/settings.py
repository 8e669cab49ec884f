"""Settings of ``screening nightly``: one YAML file says all of it, so that a clock needs one option."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from screening.nightly.health import Rules
from screening.nightly.notify import NotifySettings
from screening.settings import ReportSettings, RunSettings, Settings


class NightlySettings(Settings):
    """Settings of ``screening nightly``; those on the command line come first.

    Where the registry, the state folder and the audit log are, and what opens object stores, stands in the environment
    (MLFLOW_TRACKING_URI, SCREENING_STATE, SCREENING_AUDIT_LOG, SCREENING_STORAGE_OPTIONS, SCREENING_PSEUDONYM_KEY).
    """

    archive: str | None = Field(None, description="archive to scan first; None: the catalog is taken as it is")
    catalog: str = Field(description="folder of the catalog, made or renewed")
    runs: str = Field(description="folder of runs; nights are kept in `nights` in it")
    report: str = Field(description="folder of the report, which each night replaces")

    metadata: str | None = Field(None, description="table of the records, as `screening catalog --metadata`")
    mapping: str | None = Field(None, description="YAML: which column of the table is what")
    labels: str | None = Field(None, description="label rule, as `screening catalog --labels`")
    deidentified: bool = Field(False, description="the archive is public: plain record ids")
    key_file: str | None = Field(None, description="pseudonym key")
    packed: str | None = Field(None, description="pack of the archive, renewed after the catalog and read in its place")

    model: str = Field("models:/msaic-mi@champion", description="who scores; an alias is resolved once a night")
    rescore: Literal["never", "older"] = Field(
        "never", description="older: also what another version than the model's has scored, after all that is new"
    )
    max_records: int | None = Field(None, ge=1, description="records to begin in one night; newest first")
    max_hours: float | None = Field(None, gt=0, le=168, description="hours of one night for screening; newest first")
    keep_nights: int | None = Field(
        None,
        ge=1,
        description="runs of nights before the last so many go, once no row of theirs counts; None: none goes",
    )
    address: str | None = Field(None, description="Ray cluster; None: this machine, or the cluster of the Ray job")
    worklist: bool = Field(True, description="write the private list of flagged patients with the report")
    reference_population: str | None = Field(None, description="CSV that prevalence is standardised to")
    mlflow: bool = Field(True, description="tell MLflow of runs and reports")

    run: RunSettings = Field(default_factory=RunSettings, description="settings of `screening run`")  # type: ignore[arg-type]
    metrics_file: str | None = Field(None, description="file *.prom for the textfile collector of node_exporter")
    health: Rules = Field(default_factory=Rules, description="from where on a night is to be looked at")
    notify: NotifySettings = Field(default_factory=NotifySettings, description="who is told of a night")
    reporting: ReportSettings = Field(default_factory=ReportSettings, description="settings of `screening report`")  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _scan_needs_an_archive(self) -> NightlySettings:
        for key in ("metadata", "mapping", "labels", "key_file"):
            if self.archive is None and getattr(self, key) is not None:
                raise ValueError(f"{key} is for the scan of an archive, and no archive is named")
        return self
