"""Label rules: which of an archive's statements count, and which of them make a record MI, NORM or other.

Labels are what readers or databases state, not tissue truth.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from screening import plain_yaml
from screening.errors import UserError

Statements = Mapping[str, float | None]
"""Statement code -> likelihood in percent, None where the archive gives none."""

CLASSES = ("MI", "NORM", "other")

CODE = re.compile(r"^[A-Za-z0-9_.+/-]{1,32}$")
"""What a code of a statement looks like, as opposed to free text."""


class LabelRule(BaseModel):
    """How statement codes become a label. Codes may hold the wildcards ``*`` and ``?``.

    A statement counts unless it is excluded or its likelihood is below ``min_likelihood``. A record with a counting
    positive statement is MI; without one, but with a counting negative statement, NORM; otherwise other, so a record
    whose only MI statement does not count is other. A record for which the archive states nothing has no label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="custom", max_length=64)
    positive_codes: tuple[str, ...] = ()
    positive_superclasses: tuple[str, ...] = ()  # of scp_statements.csv's diagnostic_class
    negative_codes: tuple[str, ...] = ()
    negative_superclasses: tuple[str, ...] = ()
    negative_alone: bool = False  # NORM only where no other statement counts
    exclude_codes: tuple[str, ...] = ()
    min_likelihood: float = Field(default=0.0, ge=0.0, le=100.0)  # percent
    unknown_likelihood_counts: bool = True  # PTB-XL writes 0 where the reader gave no likelihood

    @property
    def needs_superclasses(self) -> bool:
        """Whether the rule can only be applied with a table of superclasses."""
        return bool(self.positive_superclasses or self.negative_superclasses)

    @property
    def decides(self) -> bool:
        """Whether the rule gives labels at all."""
        return bool(self.positive_codes or self.negative_codes or self.needs_superclasses)


PTBXL_MI = LabelRule(name="ptbxl-mi", positive_superclasses=("MI",), negative_superclasses=("NORM",))

PRESETS: dict[str, LabelRule] = {
    "ptbxl-mi": PTBXL_MI,
    # Injury (INJAS, INJAL, INJIN, INJLA, INJIL) stands in the MI superclass though it is not scar.
    "ptbxl-mi-no-injury": PTBXL_MI.model_copy(update={"name": "ptbxl-mi-no-injury", "exclude_codes": ("INJ*",)}),
    # SNOMED CT codes of dx_mapping_scored.csv and dx_mapping_unscored.csv of the PhysioNet/CinC Challenges 2020 and
    # 2021 (github.com/physionetchallenges/evaluation-2021): MI, OldMI, AMI, AnMI; ischaemia is left out on purpose.
    # Negative: 426783006, sinus rhythm (also what the Challenge made of PTB-XL's NORM), and nothing else.
    "snomed-mi": LabelRule(
        name="snomed-mi",
        positive_codes=("164865005", "164867002", "57054005", "54329005"),
        negative_codes=("426783006",),
        negative_alone=True,
    ),
    # "Reason for admission" in the headers of the PTB Diagnostic ECG Database (doi.org/10.13026/C28C71).
    "ptbdb-mi": LabelRule(
        name="ptbdb-mi",
        positive_codes=("Myocardial infarction",),
        negative_codes=("Healthy control",),
        negative_alone=True,
    ),
    "none": LabelRule(name="none"),
}


def load_rule(name_or_path: str) -> LabelRule:
    """Return the preset of that name, or the rule in a YAML (or JSON) file.

    Raises
    ------
    UserError
        There is no such preset or file, or the file is no valid rule; the message names the key.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise UserError(
            f"There is no label rule {name_or_path!r}; give one of {', '.join(PRESETS)}, or the path of a YAML file."
        )
    return LabelRule.model_validate({"name": path.stem[:64], **read_settings(path, LabelRule, "label rule")})


def read_settings(path: Path, model: type[BaseModel], what: str) -> dict[str, object]:
    """Return the settings in a YAML or JSON file, checked against ``model``.

    Raises
    ------
    UserError
        The file cannot be read or does not fit; the message names the file, the line or the key, and the mend.
    """
    try:
        settings, _ = plain_yaml.parse(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(f"The {what} {path} is not YAML: line {line}: {str(error.problem)[:200]}.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"The {what} {path} cannot be read ({type(error).__name__}); give a YAML file in UTF-8."
        ) from error
    if not isinstance(settings, dict):
        raise UserError(
            f"The {what} {path} holds no settings; write lines such as '{next(iter(model.model_fields))}: ...'."
        )
    try:
        model.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "(the whole file)"
        raise UserError(
            f"The {what} {path} has a bad setting {key[:80]}: {first['msg'][:200]}; known settings: "
            f"{', '.join(model.model_fields)}."
        ) from error
    return settings


class Labeller:
    """A label rule with the superclasses of the archive's codes, ready to be applied to records.

    Parameters
    ----------
    rule
        The rule.
    superclasses
        Code -> superclass; needed where the rule names superclasses.
    """

    def __init__(self, rule: LabelRule, superclasses: Mapping[str, str] | None = None) -> None:
        if rule.needs_superclasses and not superclasses:
            raise UserError(
                f"The label rule {rule.name!r} needs superclasses, but there is no scp_statements.csv beside the "
                "metadata table; put it there, or name codes instead of superclasses."
            )
        self.rule = rule
        self._superclasses = superclasses or {}
        self._texts = {*rule.positive_codes, *rule.negative_codes}
        # One verdict a code: an archive has some hundred codes and millions of statements.
        self._is_positive = lru_cache(maxsize=65_536)(
            lambda code: (
                _listed(code, rule.positive_codes) or self._superclasses.get(code) in rule.positive_superclasses
            )
        )
        self._is_negative = lru_cache(maxsize=65_536)(
            lambda code: (
                _listed(code, rule.negative_codes) or self._superclasses.get(code) in rule.negative_superclasses
            )
        )
        self._is_excluded = lru_cache(maxsize=65_536)(lambda code: _listed(code, rule.exclude_codes))

    def __call__(self, statements: Statements | None) -> tuple[list[str] | None, str | None]:
        """Return the codes that count, sorted, and the label (one of CLASSES or None)."""
        if not statements:
            return None, None
        counting = sorted(code for code, likelihood in statements.items() if self._counts(code, likelihood))
        if not self.rule.decides:
            return counting, None
        if any(map(self._is_positive, counting)):
            return counting, "MI"
        negative = [code for code in counting if self._is_negative(code)]
        if negative and not (self.rule.negative_alone and len(negative) < len(counting)):
            return counting, "NORM"
        return counting, "other"

    def may_be_kept(self, statement: str, *, in_words: bool) -> bool:
        """Whether a statement is a code, or a text that the rule itself holds; any other text may name people.

        Where statements are ``in_words``, what looks like a code is a sentence of one word.
        """
        return statement in self._texts or (not in_words and CODE.match(statement) is not None)

    def _counts(self, code: str, likelihood: float | None) -> bool:
        if self._is_excluded(code):
            return False
        if likelihood is None:
            return True
        if likelihood == 0:
            return self.rule.unknown_likelihood_counts
        return likelihood >= self.rule.min_likelihood


def _listed(code: str, patterns: Iterable[str]) -> bool:
    return any(code == pattern or fnmatch.fnmatchcase(code, pattern) for pattern in patterns)
