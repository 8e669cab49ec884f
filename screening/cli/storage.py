"""The option that opens object stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _parse(_context: click.Context, _option: click.Parameter, value: str | None) -> dict[str, Any]:
    try:
        options = json.loads(value or "{}")
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise click.BadParameter("must be a JSON object")
    return options


def storage_option(function: F) -> F:
    """Add ``--storage-options JSON`` to a command, for fsspec; from the environment, keys stay off the command line."""
    return click.option(
        "--storage-options",
        envvar="SCREENING_STORAGE_OPTIONS",
        show_envvar=True,
        callback=_parse,
        help='JSON for fsspec, e.g. \'{"endpoint_url": "http://127.0.0.1:9000"}\'.',
    )(function)
