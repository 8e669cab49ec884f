"""Options that take fold numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def folds_option(help_text: str) -> Callable[[F], F]:
    """Return the option ``--folds``, whose value is a tuple of fold numbers or None."""
    return click.option("--folds", callback=_parse, help=help_text)


def _parse(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in value.split(",")) if value else None
    except ValueError:
        raise click.BadParameter("write fold numbers with commas between them, e.g. 9 or 1,2,3") from None
