"""Who changes a champion and why, and how verdicts and changes are shown."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from screening.errors import UserError

if TYPE_CHECKING:
    from screening.train.gate import Verdict
    from screening.train.promotion import Change

F = TypeVar("F", bound=Callable[..., Any])


def by_option(function: F) -> F:
    """Add ``--by WHO`` to a command; the default is the login name."""
    return click.option(
        "--by", callback=lambda _context, _option, value: value or _login(), help="Who decides [the login name]."
    )(function)


def now() -> datetime:
    """Return the time of a change."""
    return datetime.now(UTC)


def change_json(change: Change) -> dict[str, Any]:
    """Return a change as plain JSON values."""
    return {**change.__dict__, "at": change.at.isoformat(), "failed": list(change.failed)}


def show_verdict(verdict: Verdict) -> None:
    """Print what was judged and how it stands to each bound."""
    of = verdict.evaluation_set
    folds = f"fold {', '.join(map(str, of['folds']))}" if of["folds"] else "all folds"
    click.echo(f"Candidate       {_model(verdict.candidate)}")
    click.echo(f"Champion        {_model(verdict.champion) if verdict.champion else 'none yet'}")
    click.echo(
        f"Evaluation set  {of['sha256'][:12]}: {of['records']:,} records of {of['patients']:,} patients, "
        f"{of['positive_patients']:,} with infarction; {folds} of catalog {str(of['catalog_id'])[:12]}"
    )
    models = [model for model in (verdict.candidate, verdict.champion) if model]
    if any(model["records_seen"] for model in models):
        click.echo(
            "                Out-of-fold predictions judge the procedure that made a model, not its very weights."
        )
    click.echo()
    width = max(len(bound.measured) for bound in verdict.bounds)
    for bound in verdict.bounds:
        sign = "+" if bound.name.endswith("_margin") else ""
        value = f"{bound.value:{sign}.3f}" if bound.value == bound.value else "-"
        interval = f"({bound.low:{sign}.3f} to {bound.high:{sign}.3f})" if bound.low == bound.low else ""
        state = "passed" if bound.passed else "FAILED"
        click.echo(f"{state}  {bound.measured:<{width}}  {value:>6}  {interval:<18}  {bound.limit}")
    click.echo()


def show_change(change: Change) -> None:
    """Print a change in a few lines."""
    before = "none" if change.from_version is None else str(change.from_version)
    came = f"{before} -> {change.to_version}"
    if change.action == "refused":
        came = f"{change.to_version}, champion remains {before}"
    elif not change.moved:
        came += "  (an attempt: the alias never moved)"
    click.echo(f"{change.at:%Y-%m-%d %H:%M} UTC  {change.action:<11}  {came}")
    click.echo(f"    by {change.by}" + (f": {change.why}" if change.why else ""))
    if change.failed:
        told = ", ".join(f"{name} ({_figure(change.figures[name])})" for name in change.failed)
        click.echo(f"    failed: {told}")
    if change.evaluation_set_sha256:
        click.echo(f"    judged on set {change.evaluation_set_sha256[:12]}; {change.record}")


def _model(model: Mapping[str, Any]) -> str:
    seen = f" (it has seen {model['records_seen']:,} of the records)" if model["records_seen"] else ""
    return f"version {model['version']}, bundle {model['bundle_sha256'][:12]}, by {model['judged_by']}{seen}"


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise UserError("this account has no name; say who decides with --by WHO.") from None
