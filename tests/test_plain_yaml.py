"""YAML is plain data: nothing is made, nothing multiplies, nothing nests without end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from screening import plain_yaml
from screening.archive.labels import load_rule
from screening.archive.mapping import load_mapping
from screening.errors import UserError
from screening.settings import ReportSettings, RunSettings, load_settings

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
HOSTILE = {
    "object": (
        "donors: !!python/object/apply:os.system ['touch MARK']\n",
        "could not determine a constructor for the tag",
    ),
    "name": ("donors: !!python/name:os.system\n", "could not determine a constructor for the tag"),
    "laughs": (LAUGHS, r"aliases \(\*name\) are not taken here"),
    "merges": ("a: &a {x: 1}\nb: {<<: *a}\n", r"aliases \(\*name\) are not taken here"),
    "nested": ("donors: " + "[" * 5000, "more than 20 levels of nesting"),
    "unhashable": ("{[1]: 2}\n", "found unhashable key"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_yaml_is_a_clear_sentence(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, message = HOSTILE[kind]
    path = tmp_path / "file.yaml"
    path.write_text(text)
    begun = time.process_time()
    for load in (load_rule, load_mapping, lambda file: load_settings(RunSettings, file)):
        with pytest.raises(UserError, match=message):
            load(str(path))
    assert time.process_time() - begun < 5
    assert [file.name for file in tmp_path.iterdir()] == ["file.yaml"]


def test_plain_data_are_what_pyyaml_says_they_are() -> None:
    text = "a: [1, 2.5, yes, null, 2026-11-23]\nb: {c: 'd', e: |\n  lines\n  more\n  }\n"
    text = "a: [1, 2.5, yes, null, 2026-11-23]\nb: {c: 'd'}\nf: |\n  lines\n  more\n"
    data, node = plain_yaml.parse(text)
    assert data == yaml.safe_load(text)
    assert node is not None
    assert [key.start_mark.line for key, _ in node.value] == [0, 1, 2]
    assert plain_yaml.parse("") == (None, None)


def test_a_date_that_is_none_and_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("since: 2026-99-99\n")
    with pytest.raises(UserError, match=r"file.yaml is not YAML: month must be in 1..12"):
        load_settings(ReportSettings, path)
    path.write_text("#" * (plain_yaml.MAX_CHARACTERS + 1))
    with pytest.raises(UserError, match="more than 1048576 characters"):
        load_settings(RunSettings, path)
