"""Settings: one YAML file, validated; an error names the file, the line and the key."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from screening import plain_yaml
from screening.contract import OPERATORS
from screening.errors import UserError


class Settings(BaseModel):
    """Base of every group of settings: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SHARD_RECORDS = 256
"""Ray costs milliseconds a shard; at this size that is nothing beside the shard's second of scoring."""


class RunSettings(Settings):
    """Settings of ``screening run``. Those in ``RESULT_KEYS`` change results and so name the run."""

    attribution: Literal["flagged", "all", "none"] = "flagged"
    operators: tuple[Literal["lead", "independent", "territory", "plane", "wave"], ...] = Field(
        ("lead", "territory", "wave"), min_length=1, description="what is exchanged to explain a record"
    )

    @field_validator("operators", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Take ``lead,territory`` for a list; the order given makes no difference."""
        names = value.split(",") if isinstance(value, str) else value
        known = list(OPERATORS)
        if isinstance(names, (list, tuple)) and all(name in known for name in names):
            return tuple(sorted(set(names), key=known.index))
        return names

    donors: int = Field(16, ge=2, le=256, description="donors a record at most, for each operator")
    attribution_se: float = Field(
        0.2, ge=0, description="in logits: no more donors once no part's standard error is above this"
    )
    donor_set: int = Field(128, ge=2, le=4096, description="records kept as donors")
    batch_size: int | None = Field(None, ge=1, le=4096, description="padded batch of the network; None: by device")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    shard_records: int | None = Field(
        None,
        ge=1,
        le=8192,
        description="records a shard, hence rows a results file; None: 256, fewer in a small archive",
    )
    workers: int | None = Field(None, ge=1, description="scoring workers; None: one a GPU, or one a CPU core")
    reject_limit: float = Field(0.2, ge=0, le=1, description="share of rejected records above which the exit code is 2")
    record_seconds: float = Field(30, gt=0, le=3600, description="time that decoding one record may take")
    record_memory_mb: int = Field(2048, ge=256, description="memory that decoding one record may take")
    storage_attempts: int = Field(4, ge=1, le=20, description="tries of a read before its shard is left unfinished")
    unfinished_limit: int = Field(8, ge=1, description="shards left unfinished by storage errors before the run stops")


class ReportSettings(Settings):
    """Settings of ``screening report``."""

    index_rule: Literal["latest", "first", "all"] = Field(
        "latest", description="which ECG stands for a patient; all: every one, with intervals for patients"
    )
    since: date | None = Field(None, description="first day of the period; None: from the beginning")
    until: date | None = Field(None, description="last day of the period; None: to the end")
    smallest_count: int = Field(10, ge=1, le=1000, description="counts from 1 to this are hidden")
    round_to: int = Field(5, ge=1, le=1000, description="shown counts are multiples of this")
    exact: bool = Field(False, description="show every count as it is; such a report must not be shared")
    most_places: int = Field(20, ge=1, le=200, description="sites, and devices, that are named; the rest are pooled")
    draws: int = Field(4000, ge=500, le=100_000, description="joint draws behind intervals")
    seed: int = Field(0, ge=0, description="of the draws")
    worklist_plots: int = Field(50, ge=0, le=100_000, description="ECGs drawn in the worklist, highest scores first")
    worklist_patients: int = Field(100_000, ge=1, description="flagged patients listed, highest scores first")
    memory_mb: int = Field(1024, ge=256, description="what counting may hold in memory; more goes to a temporary disk")


RESULT_KEYS = (
    "attribution",
    "operators",
    "donors",
    "attribution_se",
    "donor_set",
    "record_seconds",
    "record_memory_mb",
)

S = TypeVar("S", bound=Settings)


def load_settings(model: type[S], path: str | Path | None, overrides: dict[str, Any] | None = None) -> S:
    """Return ``model`` from the YAML file at ``path``, with the non-None ``overrides`` of the command line on top.

    Raises
    ------
    UserError
        The file cannot be read or parsed, or a key or value is not allowed: the message names line and key.
    """
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
            data, node = plain_yaml.parse(text)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"cannot read the settings file {path}: {getattr(error, 'strerror', 'not UTF-8')}"
            ) from error
        except (yaml.YAMLError, ValueError) as error:  # a date that is none, for one
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            raise UserError(
                f"the settings file {path}{where} is not YAML: {str(getattr(error, 'problem', error))[:200]}"
            ) from error
        if not isinstance(data or {}, dict) or not all(isinstance(key, str) for key in data or {}):
            raise UserError(f"the settings file {path} must hold 'key: value' lines")
        values = dict(data or {})
        lines = _lines(node)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        return model.model_validate({**values, **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        top = str(first["loc"][0]) if first["loc"] else ""
        option, place = f"--{top.replace('_', '-')}", f"{path}, line {lines.get(key) or lines.get(top, 1)}: {key}"
        source = option if top in given or path is None else place.removesuffix(": ")
        known = (
            f"; known keys are {', '.join(_known(model, first['loc']))}" if first["type"] == "extra_forbidden" else ""
        )
        shown = "" if first["type"] in ("extra_forbidden", "missing") or not key else f" (got {first['input']!r})"
        said = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{source}: {said[0].lower()}{said[1:]}{shown}{known}") from error


def _known(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are known where ``place`` was not."""
    for part in place[:-1]:
        inner = model.model_fields[str(part)].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return list(model.model_fields)


def _lines(node: yaml.Node | None, prefix: str = "") -> dict[str, int]:
    found: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            found[name] = key.start_mark.line + 1
            found |= _lines(value, f"{name}.")
    return found
