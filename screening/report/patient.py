"""What is said of one record: its row of results in words, its ECG as it was scored, and a section of a private page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from screening.archive.catalog import Catalog
from screening.archive.reader import ArchiveReader
from screening.contract import REASONS, Reason, Status
from screening.errors import UserError
from screening.model.bundle import MANIFEST, decode_manifest
from screening.recording import Recording
from screening.report.ecg import ecg_plot
from screening.report.explained import Explanation, explanation_of, findings_words, leads_words
from screening.report.facts import clean_name
from screening.report.notation import clean, figure
from screening.signal.preprocess import Preprocessing
from screening.signal.quality import FLAGS
from screening.storage import Folder

# --- Rows in words ---------------------------------------------------------------------------------------------------


def person(row: Mapping[str, Any]) -> str:
    """Return age and sex as far as they are known."""
    age = row["age"]
    years = None if age is None or math.isnan(age) else "90 years or older" if age >= 90 else f"{age:.0f} years"
    return ", ".join(part for part in (years, row["sex"]) if part) or "age and sex unknown"


def quality_words(flags: str | None) -> list[str]:
    """Return what each quality flag of a row means."""
    return [f"{name}: {FLAGS[name]}" if name in FLAGS else name for name in (flags or "").split(",") if name]


def reason_words(row: Mapping[str, Any]) -> str:
    """Return why a record was rejected."""
    said = [row["reason"], REASONS.get(row["reason"]), row["detail"]]
    return ": ".join(part for part in said if part)


def probability_words(probability: float) -> str:
    """Return a probability with three digits that is not rounded to 0 or 1."""
    return "over 0.999" if probability > 0.9995 else "under 0.001" if probability < 0.0005 else f"{probability:.3f}"


def score_words(row: Mapping[str, Any], threshold: float | None) -> str:
    """Return the probability, the logit and what the threshold made of them."""
    verdict = "flagged" if row["flagged"] else "not flagged"
    at = "" if threshold is None else f" (threshold {threshold:.4g})"
    return f"{probability_words(row['probability'])}, {verdict}{at}; logit {figure(row['logit'], 2)}"


def describe(row: Mapping[str, Any], threshold: float | None) -> list[tuple[str, str]]:
    """Return everything a row says, as pairs of a term and its words.

    Parameters
    ----------
    row
        A row of results, column -> value.
    threshold
        Of the bundle that scored it; None where it is not known.
    """
    acquired = row["acquired_at"]
    scored = row["status"] == Status.SCORED
    said = [
        ("Record", row["record_id"]),
        ("Patient", row["patient_key"] or "unknown"),
        ("Acquired", "unknown" if acquired is None else f"{acquired:%Y-%m-%d %H:%M}"),
        ("Age and sex", person(row)),
        ("Site", _place(row["site"])),
        ("Device", _place(row["device"])),
    ]
    if scored:
        said.append(("Probability of infarction", score_words(row, threshold)))
    else:
        said.append(("Rejected", reason_words(row)))
    said += _explained_words(explanation_of(row))
    if row["duration_s"] is not None:
        said.append(("Quality", "; ".join(quality_words(row["quality_flags"])) or "nothing doubtful"))
    said.append(("Recording", _recording_words(row)))
    said.append(("Model", f"{row['model_name']} {row['model_version']} (bundle {row['bundle_sha256'][:12]})"))
    said.append(("Run", row["run_id"]))
    return said


def _explained_words(explanation: Explanation) -> list[tuple[str, str]]:
    said = []
    if territories := explanation.parts.get("territory"):
        listed = ", ".join(f"{wall} {territories.words(at)}" for at, wall in enumerate(territories.names))
        said.append(("Leading territory", explanation.leading_words or "none speaks for infarction"))
        said.append(("Territories", f"{listed}; {territories.donors} donors, operator 'territory'"))
    if explanation.findings is not None:
        said.append(("Findings", findings_words(explanation.findings)))
    if leads := explanation.parts.get("lead"):
        words = leads_words(leads) or "none speaks for infarction"
        said.append(("Leading leads", f"{words}; {leads.donors} donors, operator 'lead'"))
    return said


def plot_head(row: Mapping[str, Any], threshold: float | None, *, rank: int | None = None) -> list[str]:
    """Return the lines above an ECG, without its findings: at most six, so that they stand beside the importance."""
    acquired = row["acquired_at"]
    where = [f"{kind} {_place(row[kind])}" for kind in ("site", "device") if row[kind]]
    before = "" if rank is None else f"{rank}. "
    if row["status"] == Status.SCORED:
        lines = [f"{before}Probability of infarction {score_words(row, threshold)}"]
    else:
        lines = [f"{before}Rejected, not scored: {reason_words(row)}"]
    lines.append(f"record {row['record_id']}")
    lines.append(" · ".join([person(row), *([] if acquired is None else [f"{acquired:%Y-%m-%d %H:%M}"]), *where]))
    if row["patient_key"]:
        lines.append(f"patient {row['patient_key']}")
    explanation = explanation_of(row)
    if explanation.leading_words:
        lines.append(f"leading territory {explanation.leading_words}")
    elif (leads := explanation.parts.get("lead")) and (words := leads_words(leads)):
        lines.append(f"leading leads {words}")
    quality = [f"quality: {row['quality_flags'].replace(',', ', ')}"] if row["quality_flags"] else []
    lines.append(" · ".join([*quality, f"model {row['model_name']} {row['model_version']}", f"run {row['run_id']}"]))
    return lines


def _recording_words(row: Mapping[str, Any]) -> str:
    said = []
    if row["duration_s"] is not None:
        said.append(f"{row['duration_s']:.1f} s")
    if row["source_rate_hz"] is not None:
        said.append(f"{row['source_rate_hz']:g} Hz")
    if row["source_format"]:
        said.append(row["source_format"])
    if row["unit_source"]:
        said.append(f"millivolts by {row['unit_source']}")
    return ", ".join(said) or "unknown"


def _place(name: str | None) -> str:
    return clean_name(name or "") or "unknown"


# --- What it rests on ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelBehind:
    """What of the bundle behind a row is needed to tell of it."""

    threshold: float  # on the calibrated probability
    preprocessing: Preprocessing


def model_behind(runs: Folder, bundle_sha256: str) -> ModelBehind:
    """Return facts of a bundle that is kept beside the runs; only its ``bundle.json`` is read.

    Raises
    ------
    UserError
        It is not there, damaged, or of another bundle or program.
    """
    name = f"models/{bundle_sha256}/{MANIFEST}"
    try:
        facts = decode_manifest(runs.read(name), f"{runs.url}/{name}")
        if facts["sha256"] != bundle_sha256:
            raise UserError(f"{runs.url}/{name} is of another model than its folder says; restore it from a copy")
        preprocessing = Preprocessing(**facts["input_contract"]["preprocessing"])
        return ModelBehind(float(facts["threshold"]["probability"]), preprocessing)
    except FileNotFoundError as error:
        raise UserError(
            f"{runs.url}/{name}, the model behind these rows, is not there; restore it from a copy"
        ) from error
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{runs.url}/{name} has settings that this program does not know; use the version of screening that made it"
        ) from error


def read_as_scored(reader: ArchiveReader, location: str | None, row: Mapping[str, Any]) -> Recording | str:
    """Return the ECG of a row, or in words why there is none: only bytes that are those of the row are shown.

    Raises
    ------
    OSError, or what the storage's client raises
        Where storage fails.
    """
    if location is None:
        return "the catalog does not hold the record any more"
    recording = reader.read(location, row["record_id"])
    if recording.sha256 is not None and recording.sha256 != row["record_sha256"]:
        return "the record has changed since it was screened; `screening run` screens it again"
    if isinstance(recording, Recording):
        return recording
    return f"{REASONS[Reason(recording.reason)]}: {recording.detail}"


def catalogued(catalog: Catalog, record_ids: Sequence[str], *, with_location: bool) -> dict[str, dict[str, Any]]:
    """Return record_id -> record_id, version and, if asked for, location of the records that the catalog holds."""
    found: dict[str, dict[str, Any]] = {}
    if not record_ids:
        return found
    wanted = pa.array(record_ids, pa.string())
    for batch in catalog.iter_batches(["record_id", "version"], with_location=with_location):
        rows = batch.filter(pc.is_in(batch["record_id"], wanted))
        found |= {row["record_id"]: row for row in rows.to_pylist()}
    return found


def draw(
    row: Mapping[str, Any],
    recording: Recording,
    threshold: float | None,
    *,
    windows: Mapping[str, np.ndarray] | None = None,
    form: Literal["png", "svg"],
    rank: int | None = None,
) -> bytes:
    """Return the ECG of a row with its importance, as PNG or SVG; ``windows`` are those of `amplitudes.measured`."""
    return ecg_plot(
        recording.signal_mV,
        recording.rate_hz,
        head=plot_head(row, threshold, rank=rank),
        explanation=explanation_of(row, windows),
        form=form,
    )


# --- Private pages ---------------------------------------------------------------------------------------------------


@cache
def pages() -> Environment:
    """Return the templates of pages about single patients; all that goes into them is escaped."""
    return Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalised,
    )


def inline(svg: bytes) -> Markup:
    """Return a drawing of `ecg_plot`, which has escaped what stands in it, for a page."""
    return Markup(svg.decode())


def _template(name: str) -> str:
    return resources.files("screening.report").joinpath("templates", name).read_text(encoding="utf-8")


def _finalised(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
