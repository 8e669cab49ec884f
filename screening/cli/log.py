"""What commands say while they work, for people or, as one JSON object a line, for machines that gather logs.

A line has ``time``, ``level``, ``event``, and mostly ``run_id`` and ``shard``; nothing of a record. What libraries log is told
by the library's name alone, because their messages quote paths and rows. All of it goes to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from screening.job import tell_job

F = TypeVar("F", bound=Callable[..., Any])

VARIABLE = "SCREENING_LOG_FORMAT"
_LEVELS = {"shard.unfinished": "warning", "run.unfinished": "warning"}


def log_option(function: F) -> F:
    """Add ``--log-format`` to a command; it holds for all that the process says from then on."""
    return click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        envvar=VARIABLE,
        show_envvar=True,
        expose_value=False,
        is_eager=True,
        callback=_chosen,
        help="How progress and errors are written to standard error; json: a line an event.  [default: text]",
    )(function)


def _chosen(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        choose(value)


def choose(written: str) -> None:
    """Write as ``text`` or ``json`` from now on."""
    os.environ[VARIABLE] = written  # processes that are started from here follow
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _Libraries)]:
        root.removeHandler(handler)
    logging.captureWarnings(written == "json")
    if written == "json":
        root.addHandler(_Libraries(logging.WARNING))


def is_json() -> bool:
    """Whether lines are JSON."""
    return os.environ.get(VARIABLE) == "json"


def tell(event: str, facts: Mapping[str, Any]) -> None:
    """Write an event as JSON; nothing in text, where progress has a form of its own. A Ray job shows which run it is at."""
    if is_json():
        _write(event, _LEVELS.get(event, "info"), facts)
    if event == "run.planned":
        tell_job({"run_id": facts["run_id"], "records": facts["records"]})


def stage(what: str) -> None:
    """Say what is being done now."""
    if is_json():
        _write("stage", "info", {"what": what})
    else:
        click.echo(f"{what} ...", err=True)


def complain(sentence: str) -> None:
    """Say what ended the command, as "Error: ..." or as an event ``error``."""
    if is_json():
        _write("error", "error", {"what": sentence.removeprefix("Error: ")})
    else:
        click.echo(sentence, err=True)


def _write(event: str, level: str, facts: Mapping[str, Any]) -> None:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    sys.stderr.write(json.dumps({"time": time, "level": level, "event": event, **facts}) + "\n")
    sys.stderr.flush()


class _Libraries(logging.Handler):
    """Tells that a library logged something, and not what."""

    def emit(self, record: logging.LogRecord) -> None:
        _write("library", record.levelname.lower(), {"logger": record.name, "line": record.lineno})
