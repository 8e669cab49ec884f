"""Pseudonyms: keyed names for records and patients, so that no raw identifier is ever written.

HMAC-SHA256 (RFC 2104) under a secret key: without the key, a pseudonym cannot be traced back even by trying every
possible patient number, which a plain hash would allow. The same key gives the same pseudonym, so that nights join.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from screening.errors import UserError

MIN_KEY_CHARACTERS = 32
DEFAULT_KEY_FILE = "~/.config/screening/pseudonym.key"


@dataclass(frozen=True, slots=True)
class PseudonymKey:
    """A secret that turns identifiers into pseudonyms; ``key_id`` names it without giving it away."""

    secret: bytes = field(repr=False)
    key_id: str

    @classmethod
    def of(cls, secret: bytes) -> PseudonymKey:
        """Return the key made of ``secret``."""
        mark = hmac.digest(secret, b"screening: name of this key", "sha256")
        return cls(secret, hashlib.sha256(mark).hexdigest()[:12])

    def pseudonym(self, kind: Literal["record", "patient"], value: str) -> str:
        """Return 32 hex characters that stand for ``value``; a record and a patient of one name differ.

        >>> PUBLIC_KEY.pseudonym("patient", "15709") == PUBLIC_KEY.pseudonym("record", "15709")
        False
        """
        return hmac.digest(
            self.secret, f"screening/{kind}\0{value}".encode("utf-8", "surrogateescape"), "sha256"
        ).hex()[:32]


# For archives that are already de-identified and public (PTB-XL, CinC): their patient numbers are published, so a
# secret would protect nothing, and a constant makes catalogs and run ids the same on every machine. Used only with
# `--deidentified` and no key of one's own; anybody can recompute these pseudonyms.
PUBLIC_KEY = PseudonymKey(b"screening: published constant for public archives", "public")


def load_key(
    path: str | Path | None = None, environment_value: str | None = None, *, create: bool = True
) -> tuple[PseudonymKey, str | None]:
    """Return the pseudonym key and, where the user should know something about it, a sentence.

    Parameters
    ----------
    path
        Key file: text of at least 32 characters. It wins over ``environment_value``, and is made if absent.
    environment_value
        The key itself, as the command line took it from ``SCREENING_PSEUDONYM_KEY``.
    create
        Make an absent key file (mode 0600, 256 random bits); otherwise its absence is an error.

    Raises
    ------
    UserError
        The key is too short, cannot be read or written, or its file can be read by everybody.
    """
    if path is None and environment_value is not None:
        return _checked(environment_value, "the environment variable SCREENING_PSEUDONYM_KEY"), None
    file = Path(path or DEFAULT_KEY_FILE).expanduser()
    try:
        made = create and _make(file)
        text = file.read_text(encoding="utf-8")
        mode = stat.S_IMODE(file.stat().st_mode)
    except FileNotFoundError:
        raise UserError(f"There is no pseudonym key at {file}; name the file that holds it with --key-file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The pseudonym key {file} cannot be used ({_why(error)}); mend it or name another file with --key-file."
        ) from error
    if os.name == "posix" and mode & stat.S_IROTH:
        raise UserError(f"The pseudonym key {file} can be read by everybody on this machine; run: chmod 600 '{file}'")
    key = _checked(text, f"the key file {file}")
    if made:
        return key, f"Made a new pseudonym key at {file}; keep a safe copy: without it later nights cannot be joined."
    if os.name == "posix" and mode & stat.S_IRGRP:
        return key, f"The pseudonym key {file} can be read by its group."
    return key, None


def _why(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "it is not text"


def _checked(text: str, where: str) -> PseudonymKey:
    secret = text.strip().encode()
    if len(secret) < MIN_KEY_CHARACTERS:
        raise UserError(
            f"The pseudonym key in {where} has {len(secret)} characters and needs at least {MIN_KEY_CHARACTERS}; "
            "make one with: openssl rand -hex 32"
        )
    return PseudonymKey.of(secret)


def _make(file: Path) -> bool:
    """Write a new key unless the file exists; complete or absent, also when two commands start at once."""
    if file.exists():
        return False
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pending = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(pending, file)  # unlike rename, this never replaces a key that another command has just made
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            os.rename(pending, file)
        return True
    finally:
        pending.unlink(missing_ok=True)
