"""``screening pseudonym``: the key behind the pseudonyms of a catalog."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from screening.cli import EXIT_DONE, EXIT_USAGE
from screening.cli.storage import storage_option
from screening.errors import UserError

if TYPE_CHECKING:
    from screening.archive.catalog import Catalog
    from screening.archive.identity import PseudonymKey

F = TypeVar("F", bound=Callable[..., Any])


def key_option(function: F) -> F:
    """Add ``--key-file`` to a command."""
    return click.option(
        "--key-file",
        metavar="FILE",
        help="Pseudonym key. Default: $SCREENING_PSEUDONYM_KEY, then ~/.config/screening/pseudonym.key.",
    )(function)


def key_at_hand(catalog: Catalog, key_file: str | None, value: str | None) -> tuple[PseudonymKey, str | None]:
    """Return the key that would be used with a catalog, and what is to be said of it; no key is made."""
    from screening.archive.identity import PUBLIC_KEY, load_key

    if catalog.patient_key_id == PUBLIC_KEY.key_id and key_file is None:
        return PUBLIC_KEY, None
    return load_key(key_file, value, create=False)


def key_that_made(catalog: Catalog, key_file: str | None, value: str | None) -> PseudonymKey:
    """Return the key behind a catalog's pseudonyms; UserError where the key at hand is another."""
    key, _ = key_at_hand(catalog, key_file, value)
    if key.key_id != catalog.patient_key_id:
        raise UserError(
            f"the key at hand ({key.key_id}) is not the one of the catalog {catalog.path} ({catalog.patient_key_id}); "
            "name the right one with --key-file."
        )
    return key


@click.group("pseudonym")
def command() -> None:
    """Check the key that makes pseudonyms of patients and records; it takes --json.

    \b
    screening pseudonym check --catalog catalog
    screening pseudonym check --catalog catalog --key-file old.key --patient -
    """


@command.command("check")
@click.option("--catalog", "catalog_url", required=True, help="Catalog of the archive.")
@key_option
@click.option("--patient", help="Say whether this patient is in the catalog; - reads the id from standard input.")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def check(
    catalog_url: str, key_file: str | None, patient: str | None, storage_options: dict[str, Any], as_json: bool
) -> int:
    """Say whether the key at hand made the pseudonyms of a catalog. Exit code 1 if not, or if the patient is not in it.

    \b
    screening pseudonym check --catalog catalog
    echo 15709 | screening pseudonym check --catalog catalog --patient -
    """
    from screening.archive.catalog import open_catalog
    from screening.archive.facts import as_id
    from screening.archive.forget import held_by_catalog

    catalog = open_catalog(catalog_url, storage_options=storage_options)
    key, note = key_at_hand(catalog, key_file, os.environ.get("SCREENING_PSEUDONYM_KEY"))
    right = key.key_id == catalog.patient_key_id
    records = None
    if patient is not None and right:
        stated = sys.stdin.readline().strip() if patient == "-" else patient
        records = len(held_by_catalog(catalog, patient_keys=[key.pseudonym("patient", as_id(stated) or stated)]))
    if as_json:
        facts = {"key_id": key.key_id, "catalog_key_id": catalog.patient_key_id, "matches": right, "records": records}
        click.echo(json.dumps({**facts, "note": note}, indent=1))
    else:
        made = "made" if right else "did not make"
        click.echo(f"Key {key.key_id} {made} the pseudonyms of {catalog.path} (key {catalog.patient_key_id})")
        if catalog.patient_key_id == "public":
            click.echo("That is the published constant for public archives: it protects nobody.")
        if note:
            click.echo(note)
        if records is not None:
            click.echo(f"The patient has {records:,} records in it" if records else "The patient is not in it")
    return EXIT_DONE if right and records != 0 else EXIT_USAGE
