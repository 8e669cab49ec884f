"""`screening catalog`: what it says, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from screening.archive.catalog import open_catalog
from screening.archive.identity import PseudonymKey
from screening.cli import main
from screening.cli.catalog import command


def test_command_says_what_it_did(ptbxl: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "c")
    result = CliRunner().invoke(command, [str(ptbxl), "--out", out, "--deidentified", "--labels", "ptbxl-mi"])
    assert result.exit_code == 0
    assert "64 records found by table" in result.output
    assert "Labels by ptbxl-mi: MI " in result.output
    assert f"Next: screening run --catalog {out} --out runs" in result.output
    assert "Not a medical device" in result.output


def test_command_as_json_with_a_key_made_on_the_way(mimic: Path, tmp_path: Path) -> None:
    arguments = [str(mimic), "--out", str(tmp_path / "c"), "--key-file", str(tmp_path / "key"), "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0
    assert "Made a new pseudonym key at" in result.stderr
    assert json.loads(result.stdout)["records"] == 30
    result = CliRunner().invoke(command, arguments)
    assert (result.stderr, json.loads(result.stdout)["unchanged"]) == ("", 30)


def test_command_takes_the_key_from_the_environment(mimic: Path, tmp_path: Path) -> None:
    secret = "an environment key of enough characters"
    environment = {"SCREENING_PSEUDONYM_KEY": secret, "HOME": str(tmp_path / "home")}
    result = CliRunner().invoke(command, [str(mimic), "--out", str(tmp_path / "c")], env=environment)
    assert result.exit_code == 0
    assert open_catalog(str(tmp_path / "c")).key_id == PseudonymKey.of(secret.encode()).key_id
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/absent"], "Error: There is no archive at"),
        (["{tmp}", "--storage-options", "{"], "is not JSON: Expecting property name"),
        (["{tmp}", "--storage-options", "[1]"], "must be a JSON object"),
        (["{tmp}", "--labels", "mi"], "Error: There is no label rule 'mi'"),
        (["{tmp}", "--mapping", "{tmp}/none.yaml"], "Error: The column mapping"),
    ],
)
def test_command_errors_are_one_sentence_and_exit_1(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        main(["catalog", *filled, "--out", str(tmp_path / "c"), "--deidentified"])
    assert ended.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_help_shows_two_examples() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert sum(line.startswith("    screening catalog ") for line in result.output.splitlines()) == 2
