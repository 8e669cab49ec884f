"""A night on one page, for whoever reads the log in the morning. Counts and names of models; nothing of a patient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from screening.contract import NOTICE
from screening.nightly.health import Finding
from screening.nightly.record import LAST_RUN, Night, Outcome

_HEADS = {
    Outcome.PUBLISHED: "all that was to be screened is published",
    Outcome.NOTHING_NEW: "nothing was new, and no run was made",
    Outcome.UNFINISHED: "unfinished; started again, or the next night, it goes on",
    Outcome.FAILED: "failed",
}
LAST_NIGHTS = 7


def headline(night: Night) -> str:
    """Return in a few words how a night ended."""
    if night.hours_over and night.outcome.success:
        return f"its hours were over, and {night.waiting:,} records wait for the nights to come"
    return _HEADS[night.outcome]


def summary(
    night: Night, night_id: str, before: Sequence[Night], findings: Sequence[Finding], notes: Sequence[str]
) -> str:
    """Return the page.

    Parameters
    ----------
    before
        The nights before, oldest first.
    findings
        What is to be looked at.
    notes
        What else is to be known, a sentence each.
    """
    last = next((one for one in reversed(before) if one.planned and one.outcome.success), None)
    lines = [f"Night {night_id}: {headline(night)}"]
    lines += [f"  {night.error}"] if night.error else []
    if findings:
        lines += ["", "To be looked at:", *(f"  {one.level}: {one.sentence}" for one in findings)]
    lines += ["", *_work(night), *_outcome(night, last), *_standing(night, before), *_changes(night)]
    if len(before) > 1:
        lines += ["", *_history([*before, night][-LAST_NIGHTS:])]
    if notes:
        lines += ["", *(f"Note: {note}" for note in notes)]
    return "\n".join([*lines, "", NOTICE, ""])


def _work(night: Night) -> Iterator[str]:
    model = f", model {night.model_name} {night.model_version}" if night.model_name else ""
    yield f"From {night.started_at} to {night.finished_at}{model}"
    if night.catalog:
        scan = ", ".join(
            f"{name} {night.catalog[name]:,}" for name in ("new", "changed", "gone") if name in night.catalog
        )
        yield f"Catalog      {night.catalog.get('records', 0):,} records{f' ({scan})' if scan else ''}"
    for name, runs in (("Gone on with", night.resumed), ("Abandoned", night.abandoned), ("Removed", night.removed)):
        if runs:
            yield f"{name:<12} {', '.join(runs)}"
    if night.planned:
        kinds = (("new", night.new), ("changed", night.changed), ("of older versions", night.older))
        told = ", ".join(f"{count:,} {name}" for name, count in kinds if count)
        yield f"Screened     {night.planned:,} records{f' ({told})' if told else ''} in {', '.join(night.run_ids)}"
    if night.waiting:
        yield f"Waiting      {night.waiting:,} records for the nights to come"
    if night.records_this_time and night.seconds:
        yield f"Rate         {night.records_this_time / night.seconds:,.0f} records/s, {night.seconds:,.0f} s of scoring"


def _outcome(night: Night, last: Night | None) -> Iterator[str]:
    if not night.planned:
        return
    yield ""
    yield f"{'':<28}{'tonight':>18}{'the night before' if last else '':>20}"
    reasons = sorted({*night.reasons, *(last.reasons if last else {})})
    for name in ("scored", "flagged", "rejected", *reasons):
        told = f"{name if name not in reasons else f'  {name}':<28}{_share(*_counted(night, name)):>18}"
        yield told + (f"{_share(*_counted(last, name)):>20}" if last else "")


def _counted(night: Night, name: str) -> tuple[int, int]:
    """Return a count and what it is of: flags of what was scored, all else of what was planned."""
    if name == "flagged":
        return night.flagged, night.scored
    counts = {"scored": night.scored, "rejected": night.rejected}
    return counts[name] if name in counts else night.reasons.get(name, 0), night.planned


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})" if of else f"{count:,}"


def _standing(night: Night, before: Sequence[Night]) -> Iterator[str]:
    if not night.current:
        return
    stands = night.current
    yield ""
    yield (
        f"Now stand    {stands.get('records', 0):,} records: {stands.get('scored', 0):,} scored, {stands.get('rejected', 0):,} "
        f"rejected; {stands.get('superseded', 0):,} rows superseded"
    )
    was = next((one.figures for one in reversed(before) if "prevalence" in one.figures), {})
    if "prevalence" in night.figures:
        told = f"Prevalence   {_interval(night.figures)}"
        yield f"{told}, before {_interval(was)}" if was else told
    made = "made anew" if night.report_made else "as it was"
    waits = "; it shows earlier figures, as too little has changed to show others" if night.report_waits else ""
    yield f"Report       {made}{waits}"


def _interval(figures: Mapping[str, float]) -> str:
    return f"{figures['prevalence']:.1%} ({figures['prevalence_low']:.1%}-{figures['prevalence_high']:.1%})"


def _changes(night: Night) -> Iterator[str]:
    """Say what drifted, most marked first."""
    apart = [one for one in night.drift if one.verdict != "none"]
    for against in dict.fromkeys(one.against for one in apart):
        told = [f"{one.feature} ({one.verdict})" for one in apart if one.against == against]
        yield f"Drift        against {'the run before' if against == LAST_RUN else against}: {', '.join(told)}"


def _history(nights: Sequence[Night]) -> Iterator[str]:
    yield f"{'night':<12}{'outcome':<14}{'model':<14}{'records':>10}{'flagged':>10}{'rejected':>10}{'prevalence':>12}"
    for one in nights:
        flagged = f"{one.flagged / one.scored:.1%}" if one.scored else "-"
        rejected = f"{one.rejected / one.planned:.1%}" if one.planned else "-"
        prevalence = f"{one.figures['prevalence']:.1%}" if "prevalence" in one.figures else "-"
        yield (
            f"{one.date:<12}{one.outcome:<14}{(one.model_version or '-')[:13]:<14}{one.planned:>10,}{flagged:>10}"
            f"{rejected:>10}{prevalence:>12}"
        )
