"""The option that opens object stores."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_VARIABLE = "SCREENING_STORAGE_OPTIONS"


def _parse(_context: click.Context | None, _option: click.Parameter | None, value: str | None) -> dict[str, Any]:
    try:
        options = json.loads(value or "{}")
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise click.BadParameter("must be a JSON object")
    return options


def environment_options() -> dict[str, Any]:
    """Return the options that the environment states, for commands without the option."""
    return _parse(None, None, os.environ.get(_VARIABLE))


def storage_option(function: F) -> F:
    """Add ``--storage-options JSON`` to a command, for fsspec; from the environment, keys stay off the command line."""
    return click.option(
        "--storage-options",
        envvar=_VARIABLE,
        show_envvar=True,
        callback=_parse,
        help='JSON for fsspec, e.g. \'{"endpoint_url": "http://127.0.0.1:9000"}\'.',
    )(function)
