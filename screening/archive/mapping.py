"""Which column of a metadata table holds what: of tables that are known, or as a user says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from screening.archive.facts import MAX_CODES
from screening.archive.labels import read_settings


class ColumnMapping(BaseModel):
    """Which column of a metadata table holds what; columns left out are taken as unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str  # of the record, relative to the archive's root, with or without suffix
    member: str | None = None  # which of the records of an HDF5 file
    patient_id: str | None = None
    acquired_at: str | None = None
    acquired_at_format: str | None = None  # as for strptime; ISO 8601 if left out
    age: str | None = None
    sex: str | None = None
    sex_values: dict[str, Literal["female", "male"]] = Field(default_factory=dict)  # beyond f, m, female, male
    site: str | None = None
    device: str | None = None
    qrs_ms: str | None = None  # what the machine measured
    labels: str | None = None
    labels_format: Literal["list", "likelihoods"] = "list"  # codes between separators, or {'CODE': percent}
    labels_separator: str = ","
    label_columns: list[str] = Field(
        default_factory=list, max_length=MAX_CODES
    )  # true where the statement of that name holds
    fold: str | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns that are read, each once."""
        named = (
            self.path,
            self.member,
            self.patient_id,
            self.acquired_at,
            self.age,
            self.sex,
            self.site,
            self.device,
            self.qrs_ms,
            self.labels,
            self.fold,
            *self.label_columns,
        )
        return list(dict.fromkeys(name for name in named if name is not None))


PTBXL = ColumnMapping(
    path="filename_hr",
    patient_id="patient_id",
    acquired_at="recording_date",
    age="age",
    sex="sex",
    sex_values={"0": "male", "1": "female"},  # Wagner et al. 2020, doi.org/10.1038/s41597-020-0495-6, table 3
    site="site",
    device="device",
    labels="scp_codes",
    labels_format="likelihoods",
    fold="strat_fold",
)
MIMIC_IV_ECG = ColumnMapping(path="path", patient_id="subject_id", acquired_at="ecg_time")
CODE_15 = ColumnMapping(
    path="trace_file",
    member="exam_id",
    patient_id="patient_id",
    age="age",
    sex="is_male",
    sex_values={"true": "male", "false": "female", "1": "male", "0": "female"},
    label_columns=["1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"],
)
"""Ribeiro et al. 2021, doi.org/10.5281/zenodo.4916206: ``exams.csv``."""
CONVERTED = ColumnMapping(
    path="path",
    patient_id="patient_key",
    age="age",
    sex="sex",
    device="device",
    qrs_ms="qrs_ms",
    label_columns=["PACE", "LBBB", "WPW"],
)
"""``converted.csv`` of `screening convert`."""
KNOWN_TABLES = ("ptbxl_database.csv", "record_list.csv", "exams.csv", "converted.csv")
"""Names under which a known metadata table stands in an archive's root."""


def load_mapping(path: str) -> ColumnMapping:
    """Return the column mapping in a YAML or JSON file; UserError names the file and the key."""
    return ColumnMapping.model_validate(read_settings(Path(path).expanduser(), ColumnMapping, "column mapping"))


def known_mapping(columns: Sequence[str]) -> ColumnMapping | None:
    """Return the mapping of a table whose columns we know, else None."""
    present = set(columns)
    if {"ecg_id", "scp_codes"} <= present and present & {"filename_hr", "filename_lr"}:
        path = "filename_hr" if "filename_hr" in present else "filename_lr"
        return PTBXL.model_copy(update={"path": path})
    if {"subject_id", "study_id", "path"} <= present:
        return MIMIC_IV_ECG if "ecg_time" in present else MIMIC_IV_ECG.model_copy(update={"acquired_at": None})
    if {"exam_id", "trace_file", "is_male"} <= present:
        labels = [column for column in CODE_15.label_columns if column in present]
        patient = "patient_id" if "patient_id" in present else None
        return CODE_15.model_copy(update={"label_columns": labels, "patient_id": patient})
    if {*CONVERTED.columns, "max_difference_uV"} <= present:
        return CONVERTED
    return None
