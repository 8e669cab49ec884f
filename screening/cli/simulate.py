"""``screening simulate``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click


@click.command("simulate")
@click.argument("dest")
@click.option("--records", default=2000, show_default=True, type=click.IntRange(1), help="ECGs to write.")
@click.option(
    "--prevalence", default=0.1, show_default=True, type=click.FloatRange(0, 1), help="Share with infarction."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="The same seed gives the same bytes."
)
@click.option(
    "--format", "format_", default="wfdb", show_default=True, type=click.Choice(["wfdb"]), help="File format."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(dest: str, records: int, prevalence: float, seed: int, format_: str, as_json: bool) -> None:
    """Write an archive of simulated 12-lead ECGs with known infarctions.

    \b
    screening simulate archive --records 2000
    screening simulate archive --records 1000000 --prevalence 0.03 --seed 7
    """
    from tqdm import tqdm

    from screening.signal.simulate import SimulationSettings, write_archive

    settings = SimulationSettings(records=records, prevalence=prevalence, seed=seed)
    with tqdm(total=records, unit=" records", disable=as_json or not sys.stderr.isatty()) as bar:

        def show(count: int) -> None:
            bar.update(count)

        summary = write_archive(dest, settings, progress=show)
    if as_json:
        click.echo(json.dumps(asdict(summary), indent=1, default=str))
    else:
        click.echo(f"{records:,} simulated ECGs in {dest}; next: screening catalog {dest} --out CATALOG --deidentified")
