"""``screening register``: a bundle that was made elsewhere becomes a version."""

from __future__ import annotations

import json
from pathlib import Path

import click

from screening.cli.record import Record, audit_option
from screening.cli.state import default_tracking_uri, model_folder, state_option, tracking_option
from screening.errors import UserError


@click.command("register")
@click.argument("bundle_ref", metavar="[BUNDLE]", required=False)
@state_option
@tracking_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print the version as JSON.")
def command(bundle_ref: str | None, state: Path, tracking_uri: str | None, as_json: bool, record: Record) -> int:
    """Register the bundle in folder or URL BUNDLE as a version of its model; without it, the bundle that ships.

    `screening train` registers what it trains. This is for bundles from elsewhere, and for the shipped one, which can so
    become the first champion, whom later versions are compared with. Done again it changes nothing. No version is
    champion by being registered; see `screening promote`.

    \b
    screening register
    screening register s3://bucket/bundles/msaic-mi-7f3a --tracking-uri http://mlflow:5000 --json
    """
    from screening.model.bundle import load_bundle
    from screening.train.assemble import registry_entry
    from screening.train.registry import register

    bundle = load_bundle(model_folder(bundle_ref, state=state, tracking_uri=tracking_uri))
    try:
        entry = registry_entry(bundle)
    except KeyError as error:
        raise UserError(
            f"the bundle {bundle.path} does not say how it was trained (it lacks {error}); train it with `screening train`."
        ) from None
    version = register(
        bundle,
        tracking_uri=tracking_uri or default_tracking_uri(state),
        run_name=f"{bundle.name}-{bundle.version}",
        **entry,
    )
    facts = {"model": version.name, "version": version.version, "bundle_sha256": version.bundle_sha256}
    record("model.registered", facts)
    if as_json:
        click.echo(json.dumps({**facts, "aliases": list(version.aliases)}, indent=1))
        return 0
    alias = f" ({', '.join(version.aliases)})" if version.aliases else ""
    click.echo(f"{version.name} version {version.version}{alias}, bundle {version.bundle_sha256[:12]}")
    if not version.aliases:
        click.echo(f"Make it the champion: screening promote {version.name} {version.version} --catalog CATALOG")
    return 0
