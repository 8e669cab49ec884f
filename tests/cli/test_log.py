"""Lines for machines: one JSON object each, whatever happens, and nothing of what libraries quote."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from screening.cli import log, main


@pytest.fixture(autouse=True)
def _text_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(log.VARIABLE, "text")
    yield
    log.choose("text")


def lines(err: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in err.splitlines()]
    assert all(datetime.fromisoformat(str(line["time"])).utcoffset() is not None for line in found)
    return found


def test_events_and_errors_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log.choose("json")
    log.tell("shard.unfinished", {"run_id": "0123456789abcdef", "shard": 3, "why": "storage"})
    log.stage("planning")
    log.complain("Error: no such thing")
    with pytest.raises(SystemExit) as ended:
        main(["run", "--catalog", str(tmp_path / "absent"), "--out", str(tmp_path / "runs"), "--log-format", "json"])
    assert ended.value.code == 1
    with pytest.raises(SystemExit):
        main(["run", "--colour"])
    shard, stage, error, *rest = lines(capsys.readouterr().err)
    assert {**shard, "time": ""} == {
        "time": "",
        "level": "warning",
        "event": "shard.unfinished",
        "run_id": "0123456789abcdef",
        "shard": 3,
        "why": "storage",
    }
    assert (stage["event"], stage["what"]) == ("stage", "planning")
    assert (error["level"], error["what"]) == ("error", "no such thing")
    assert [line["event"] for line in rest] == ["error", "error"]
    assert "No such option" in str(rest[1]["what"])


def test_libraries_are_named_and_not_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    log.choose("json")
    logging.getLogger("fsspec").warning("cannot open %s", "quackenbush.dat")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("row of Quackenbush", stacklevel=1)
    first, second = lines(capsys.readouterr().err)
    assert (first["event"], first["level"], first["logger"]) == ("library", "warning", "fsspec")
    assert second["logger"] == "py.warnings"
    assert "uackenbush" not in json.dumps([first, second])


def test_text_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    log.tell("run.published", {})
    log.stage("planning")
    log.complain("Error: no such thing")
    assert capsys.readouterr().err == "planning ...\nError: no such thing\n"
