"""Label rules: what counts, and what it makes of a record."""

from __future__ import annotations

import ast
import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.archive.labels import CLASSES, PRESETS, Labeller, LabelRule, load_rule
from screening.errors import UserError

SUPERCLASSES = {"IMI": "MI", "INJAS": "MI", "NORM": "NORM", "LVH": "HYP"}


def label(rule: LabelRule, statements: dict[str, float | None] | None) -> tuple[list[str] | None, str | None]:
    return Labeller(rule, SUPERCLASSES)(statements)


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ({"IMI": 100.0, "SR": 0.0}, (["IMI", "SR"], "MI")),
        ({"NORM": 80.0, "SR": 0.0}, (["NORM", "SR"], "NORM")),
        ({"IMI": 35.0, "NORM": 80.0}, (["IMI", "NORM"], "MI")),  # NORM only if no MI
        ({"LVH": 100.0}, (["LVH"], "other")),
        ({"IMI": 0.0}, (["IMI"], "MI")),  # 0 is unknown, not absent
        ({}, (None, None)),
        (None, (None, None)),
    ],
)
def test_ptbxl_mi(statements: dict[str, float | None] | None, expected: object) -> None:
    assert label(PRESETS["ptbxl-mi"], statements) == expected


def test_likelihood_threshold_and_unknown_likelihood() -> None:
    rule = LabelRule(positive_codes=("IMI",), min_likelihood=50)
    assert label(rule, {"IMI": 35.0, "LVH": 50.0}) == (["LVH"], "other")
    assert label(rule, {"IMI": 0.0}) == (["IMI"], "MI")
    assert label(rule, {"IMI": None}) == (["IMI"], "MI")
    strict = rule.model_copy(update={"unknown_likelihood_counts": False})
    assert label(strict, {"IMI": 0.0}) == ([], "other")


def test_injury_does_not_count_where_excluded() -> None:
    assert label(PRESETS["ptbxl-mi"], {"INJAS": 100.0})[1] == "MI"
    assert label(PRESETS["ptbxl-mi-no-injury"], {"INJAS": 100.0, "SR": 0.0}) == (["SR"], "other")


def test_snomed_mi_takes_sinus_rhythm_alone_as_normal() -> None:
    rule = PRESETS["snomed-mi"]
    assert label(rule, {"164865005": None, "426783006": None})[1] == "MI"
    assert label(rule, {"426783006": None})[1] == "NORM"
    assert label(rule, {"426783006": None, "164934002": None})[1] == "other"
    assert label(rule, {"164861001": None})[1] == "other"  # ischaemia is no infarction


def test_none_keeps_all_statements_and_gives_no_label() -> None:
    assert label(PRESETS["none"], {"IMI": 15.0, "LVH": 0.0}) == (["IMI", "LVH"], None)


@given(
    st.dictionaries(st.sampled_from([*SUPERCLASSES, "SR"]), st.none() | st.floats(0, 100)),
    st.floats(0, 100),
    st.booleans(),
)
def test_a_stricter_threshold_never_adds_statements(
    statements: dict[str, float | None], threshold: float, unknown: bool
) -> None:
    rule = PRESETS["ptbxl-mi"].model_copy(update={"min_likelihood": threshold, "unknown_likelihood_counts": unknown})
    loose, _ = label(PRESETS["ptbxl-mi"], statements)
    strict, verdict = label(rule, statements)
    assert set(strict or []) <= set(loose or [])
    assert (verdict in CLASSES) == bool(statements)


def test_ptbxl_presets_on_real_statements(shared_data: Path) -> None:
    """Expected counts by counting the table's superclasses in another way: by words in the raw cell."""
    with open(shared_data / "ptbxl" / "scp_statements.csv", newline="") as file:
        superclasses = {row[""]: row["diagnostic_class"] for row in csv.DictReader(file)}
    mi = {f"'{code}':" for code, superclass in superclasses.items() if superclass == "MI"}
    injury = {code for code in mi if code.startswith("'INJ")}
    with open(shared_data / "ptbxl" / "ptbxl_database.csv", newline="") as file:
        cells = [row["scp_codes"] for row in csv.DictReader(file)]
    is_mi = [any(code in cell for code in mi) for cell in cells]
    is_norm = ["'NORM':" in cell for cell in cells]
    assert (sum(is_mi), sum(is_norm)) == (586, 1283)
    assert not any(a and b for a, b in zip(is_mi, is_norm, strict=True))
    for name, codes in (("ptbxl-mi", mi), ("ptbxl-mi-no-injury", mi - injury)):
        labeller = Labeller(PRESETS[name], superclasses)
        verdicts = [labeller(ast.literal_eval(cell))[1] for cell in cells]
        assert [verdict == "MI" for verdict in verdicts] == [any(code in cell for code in codes) for cell in cells]
        assert verdicts.count("NORM") == 1283


def test_rule_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "inferior.yaml"
    path.write_text("positive_codes: [IMI, ILMI]\nexclude_codes: ['INJ*']\nmin_likelihood: 50\n")
    rule = load_rule(str(path))
    assert (rule.name, rule.positive_codes, rule.min_likelihood) == ("inferior", ("IMI", "ILMI"), 50.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("positive_code: [IMI]", r"has a bad setting positive_code: .*known settings: name, positive_codes"),
        ("min_likelihood: 120", r"has a bad setting min_likelihood: .*less than or equal to 100"),
        ("positive_codes: [a\nb: c", r"is not YAML: line 2: "),
        ("just words", r"holds no settings; write lines such as 'name: \.\.\.'"),
    ],
)
def test_bad_rule_files_name_the_key_or_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rule.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_rule(str(path))


def test_unknown_rule_names_the_presets() -> None:
    with pytest.raises(
        UserError, match=r"There is no label rule 'mi'; give one of ptbxl-mi, .*, or the path of a YAML file"
    ):
        load_rule("mi")


def test_superclasses_without_their_table_are_refused() -> None:
    with pytest.raises(UserError, match=r"'ptbxl-mi' needs superclasses, but there is no scp_statements\.csv beside"):
        Labeller(PRESETS["ptbxl-mi"], {})
