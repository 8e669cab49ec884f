"""Telling somebody of a night: an HTTPS POST of JSON, or a command that gets the JSON on standard input.

What is sent holds the night's counts and the findings' sentences; nothing of a record or a patient. Whoever receives it can
check with a shared secret that it is ours and new. A notification that fails never fails the night: what went wrong comes back
as a sentence, in which only the receiver's host is named, because webhook URLs are secrets themselves.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from screening.contract import NOTICE
from screening.errors import UserError
from screening.nightly.health import Finding
from screening.nightly.record import Night
from screening.settings import Settings

PAYLOAD_VERSION = 1
SIGNATURE = "X-Screening-Signature"
SECRET_VARIABLE = "SCREENING_WEBHOOK_SECRET"
SHORTEST_SECRET = 16
_PAUSES_S = (2.0, 8.0)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class NotifySettings(Settings):
    """Settings of a notification; with neither webhook nor command nobody is told."""

    webhook: str | None = Field(default=None, description="https URL that gets a POST (http on this machine only)")
    secret_file: str | None = Field(
        default=None, description=f"file with the secret that signs it; or ${SECRET_VARIABLE}"
    )
    command: tuple[str, ...] = Field(
        default=(), description="program and arguments, without a shell; JSON on its input"
    )
    when: Literal["always", "findings", "failure"] = Field(default="findings", description="which nights are told of")
    timeout_s: float = Field(default=10.0, gt=0, le=300, description="patience with the receiver, each time")

    @field_validator("webhook")
    @classmethod
    def _safe(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "")
        if url is not None and not (parts.hostname and parts.scheme in ("https", "http")):
            raise ValueError("it must be an https URL")
        if url is not None and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("it must be https; http is for a receiver on this machine")
        return url


def is_told(night: Night, findings: Sequence[Finding], settings: NotifySettings) -> bool:
    """Whether the settings want this night told of."""
    return settings.when == "always" or bool(settings.when == "findings" and findings) or not night.outcome.success


def payload(night: Night, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what is sent. ``text`` is what chat services show; the rest is for programs."""
    counts = ("planned", "scored", "rejected", "flagged", "waiting", "unfinished_shards")
    told = f"{night.planned:,} records, {night.flagged:,} flagged, {night.rejected:,} rejected"
    if night.hours_over:
        told += f"; its hours were over, and {night.waiting:,} records wait"
    lines = [f"Screening, night of {night.date}: {night.outcome.replace('_', ' ')}, {told}."]
    lines += [f"{finding.level.upper()}: {finding.sentence}" for finding in findings]
    return {
        "schema_version": PAYLOAD_VERSION,
        "text": "\n".join(lines),
        "night": night.date,
        "attempt": night.attempt,
        "kind": night.kind,
        "outcome": str(night.outcome),
        "run_ids": list(night.run_ids),
        "model": {"name": night.model_name, "version": night.model_version},
        "counts": {name: getattr(night, name) for name in counts} | {"reasons": dict(night.reasons)},
        "findings": [finding.to_json() for finding in findings],
        "notice": NOTICE,
    }


def secret_of(settings: NotifySettings, environment: Mapping[str, str]) -> bytes | None:
    """Return the secret that signs what the webhook gets, from the file or the environment; None where there is none.

    Raises
    ------
    UserError
        The file cannot be read, or the secret is too short to be one.
    """
    secret = environment.get(SECRET_VARIABLE, "").encode()
    if settings.secret_file is not None:
        try:
            secret = Path(settings.secret_file).read_bytes().strip()
        except OSError as error:
            raise UserError(f"the webhook's secret {settings.secret_file} cannot be read: {error.strerror}") from error
    if secret and len(secret) < SHORTEST_SECRET:
        raise UserError(
            f"the webhook's secret is shorter than {SHORTEST_SECRET} characters; `openssl rand -hex 32` makes one"
        )
    return secret or None


def notify(
    body: Mapping[str, Any],
    settings: NotifySettings,
    *,
    secret: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Tell whoever the settings name; return a sentence for each that could not be told, none being the rule.

    Parameters
    ----------
    body
        What `payload` gave.
    secret
        Signs what the webhook gets: header ``X-Screening-Signature: t=UNIX_TIME,v1=HEX``, where HEX is the HMAC-SHA256 of
        ``UNIX_TIME.BODY``. None: unsigned.
    environment
        Of the command; None: this process's own. Secrets of ours (``SCREENING_*``) are taken out.
    """
    data = json.dumps(body).encode()
    failed = []
    if settings.webhook is not None:
        failed.append(_post(settings.webhook, data, settings.timeout_s, secret, now, sleep))
    if settings.command:
        failed.append(
            _run(settings.command, data, settings.timeout_s, os.environ if environment is None else environment)
        )
    return [sentence for sentence in failed if sentence is not None]


# --- Webhook ---------------------------------------------------------------------------------------------------------


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Lets an answer that points elsewhere be the error it is: what is sent is for the named receiver alone."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _post(
    url: str,
    data: bytes,
    timeout_s: float,
    secret: bytes | None,
    now: Callable[[], float],
    sleep: Callable[[float], None],
) -> str | None:
    """Return why the webhook could not be told, or None. Asked again where that may help, at most three times in all."""
    opener = urllib.request.build_opener(_NoRedirects)
    why = ""
    for attempt, pause in enumerate((*_PAUSES_S, 0.0), 1):
        request = urllib.request.Request(url, data=data, method="POST", headers=_headers(data, secret, now()))
        again = True
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                if 200 <= answer.status < 300:
                    return None
                why = f"it answered {answer.status}"
        except urllib.error.HTTPError as error:
            error.close()
            elsewhere = ", which points elsewhere and is not followed" if 300 <= error.code < 400 else ""
            why, again = f"it answered {error.code}{elsewhere}", error.code >= 500 or error.code == 429
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            again = not isinstance(cause, ssl.SSLCertVerificationError)
            why = "no answer in time" if isinstance(cause, TimeoutError) else type(cause).__name__
        if not again or attempt > len(_PAUSES_S):
            break
        sleep(pause)
    times = f", {attempt} times" if attempt > 1 else ""
    return (
        f"the webhook at {urlsplit(url).hostname} was not told of the night: {why}{times}; the night itself is as it is"
    )


def _headers(data: bytes, secret: bytes | None, now: float) -> dict[str, str]:
    # The same for each attempt, so that a receiver that took the first in the end does not act twice.
    headers = {"Content-Type": "application/json", "Idempotency-Key": hashlib.sha256(data).hexdigest()[:32]}
    if secret:
        headers[SIGNATURE] = signature(data, secret, int(now))
    return headers


def signature(data: bytes, secret: bytes, at: int) -> str:
    """Return the header that lets a receiver check that ``data`` was sent by us at Unix time ``at``."""
    return f"t={at},v1={hmac.new(secret, f'{at}.'.encode() + data, hashlib.sha256).hexdigest()}"


# --- Command ---------------------------------------------------------------------------------------------------------


def _run(command: Sequence[str], data: bytes, timeout_s: float, environment: Mapping[str, str]) -> str | None:
    """Return why the command did not take it, or None. What it prints goes nowhere; after the timeout all of it is ended."""
    program = os.path.basename(command[0])
    kept = {name: value for name, value in environment.items() if not name.startswith("SCREENING_")}
    nowhere = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, env=kept, start_new_session=True
        )
    except OSError as error:
        return f"the command {program} could not be started to tell of the night: {error.strerror}"
    try:
        process.communicate(data, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"the command {program} took longer than {timeout_s:g} s to tell of the night, and was ended"
    if process.returncode:
        return f"the command {program} ended with {process.returncode}, so that nobody may have been told of the night"
    return None
