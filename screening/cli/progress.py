"""One progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from screening.run.pipeline import Progress

LINE_EVERY_S = 10.0


class RunProgress:
    """Shows a run: records a second, scored, rejected, flagged, time left. On standard error, so output stays clean."""

    def __init__(self, *, quiet: bool = False) -> None:
        from tqdm import tqdm

        self._terminal = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._tqdm = tqdm
        self._begun = self._last_line = time.monotonic()

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def stage(self, what: str) -> None:
        """Show what is being done before and between shards."""
        self._begun = time.monotonic()
        if not self._quiet:
            click.echo(f"{what} ...", err=True)

    def update(self, progress: Progress) -> None:
        """Show the counts after a shard."""
        if self._terminal:
            if self._bar is None:
                self._bar = self._tqdm(
                    total=progress.records, initial=progress.at_start, unit=" records", smoothing=0.1
                )
            self._bar.set_postfix(
                scored=progress.scored, rejected=progress.rejected, flagged=progress.flagged, refresh=False
            )
            self._bar.update(progress.done - self._bar.n)
            return
        now = time.monotonic()
        if self._quiet or (now - self._last_line < LINE_EVERY_S and progress.done < progress.records):
            return
        self._last_line = now
        rate = (progress.done - progress.at_start) / max(now - self._begun, 1e-9)
        left = (progress.records - progress.done) / rate if rate else 0.0
        click.echo(
            f"{progress.done:,} of {progress.records:,} records, {rate:.0f} records/s, {progress.scored:,} scored, "
            f"{progress.rejected:,} rejected, {progress.flagged:,} flagged, {left:.0f} s left",
            err=True,
        )
