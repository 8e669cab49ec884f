"""The option that names the audit log; only here are the clock and the user asked for it."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from screening.cli.storage import environment_options

if TYPE_CHECKING:
    from screening.audit_log import AuditLog

F = TypeVar("F", bound=Callable[..., Any])

Record = Callable[[str, dict[str, Any]], None]
"""Adds an entry to the audit log: the event, and what of it."""


def audit_option(function: F) -> F:
    """Add ``--audit-log`` to a command, which gets ``record``; where the log cannot be written, the command does not begin.

    To be placed below `state.state_option`, whose folder holds the log by default.
    """

    @wraps(function)
    def with_record(*args: Any, audit_log: str | None, **kwargs: Any) -> Any:
        log = log_at(audit_log, kwargs.get("storage_options", environment_options()))
        log.require()
        who = user()

        def record(event: str, what: dict[str, Any]) -> None:
            log.append(event, what, at=datetime.now(UTC).isoformat(timespec="seconds"), who=who)

        return function(*args, record=record, **kwargs)

    return path_option(with_record)  # type: ignore[return-value]


def path_option(function: F) -> F:
    """Add ``--audit-log`` alone."""
    return click.option(
        "--audit-log",
        envvar="SCREENING_AUDIT_LOG",
        show_envvar=True,
        help="File, or folder on an object store, that records what was done.  [default: audit.jsonl in the state folder]",
    )(function)


def log_at(url: str | None, storage_options: dict[str, Any] | None = None) -> AuditLog:
    """Return the log that ``--audit-log`` names, or the one in the state folder."""
    from screening.audit_log import AuditLog

    state = click.get_current_context().params.get("state") or os.path.expanduser(
        os.environ.get("SCREENING_STATE", "~/.local/state/screening")
    )
    local = os.path.join(os.path.abspath(str(state)), "audit.jsonl")
    return AuditLog(os.path.expanduser(url) if url else local, storage_options)


def logged_url(url: str) -> str:
    """Return a folder as the log names it: where it is whoever reads, and without credentials."""
    from screening.archive.root import without_credentials

    return without_credentials(url) if "://" in url else os.path.abspath(url)


def user() -> str:
    """Return who is at work, as user@host, by what the system says; a user without a name, as in containers, is a number."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
