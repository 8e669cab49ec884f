"""What Prometheus is told of runs and nights: counts, seconds and versions; nothing of a record, no path.

`Meter` hears the events of `pipeline.screen` in the driver, where one row a shard comes back, and keeps the figures; workers
only look at the clock. They go to the metrics agent of the Ray that is joined, where it has one (a Ray started by `cluster`
has none), and, if asked for, to a file for the textfile collector of Prometheus' node_exporter. Ray puts ``ray_`` before each
name; ``infra/prometheus/prometheus.yml`` takes it off again, so that rules and dashboards have one name for both.

Ray shows a gauge for two of its reporting intervals (20 s) after the process that set it has ended, and a counter for as long
as its node lives. So what a run or a night leaves behind is a moment (Unix time), of which the rules take the newest ever seen.

Of `run/`, this file and `pipeline.py` alone know Ray.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from screening.errors import UserError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

    from screening.nightly.record import Night

WRITE_EVERY_S = 5.0
"""The textfile is written no more often; Prometheus looks four times a minute."""


@dataclass(frozen=True)
class Metric:
    """A metric: its name as Prometheus shall know it, and its labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SCORED = Metric("screening_records_scored_total", "counter", "Records scored.")
FLAGGED = Metric("screening_records_flagged_total", "counter", "Records at or above the model's threshold.")
EXPLAINED = Metric("screening_records_explained_total", "counter", "Records explained.")
REJECTED = Metric("screening_records_rejected_total", "counter", "Records not scored, by reason.", ("reason",))
FINISHED = Metric("screening_shards_finished_total", "counter", "Shards whose results file was written.")
UNFINISHED = Metric("screening_shards_unfinished_total", "counter", "Shards that faults of storage left undone.")
STAGE_SECONDS = Metric("screening_stage_seconds_total", "counter", "Seconds of workers, by stage.", ("stage",))
SHARD_SECONDS = Metric(
    "screening_shard_seconds",
    "histogram",
    "Seconds of workers a shard, all stages.",
    buckets=(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0),
)
LEFT = Metric("screening_shards_left", "gauge", "Shards of the run that wait or are in work.")
WORKERS = Metric("screening_workers", "gauge", "Scoring workers of the run.")
RUN = Metric("screening_run_info", "gauge", "1 for the run at work.", ("run_id", "model", "model_version", "device"))
RUNS = Metric("screening_runs_total", "counter", "Runs ended, by outcome.", ("outcome",))
PUBLISHED = Metric("screening_run_published_timestamp_seconds", "gauge", "When the last run was published (Unix time).")
NIGHT = Metric("screening_night_timestamp_seconds", "gauge", "When the last night ended (Unix time).")
SUCCESS = Metric("screening_last_success_timestamp_seconds", "gauge", "When the last successful night ended.")
SUCCEEDED = Metric("screening_night_success", "gauge", "Whether the last night left nothing to do.")
WAITING = Metric("screening_night_waiting_records", "gauge", "Records left for later nights by the budget.")
FINDING = Metric(
    "screening_night_finding_timestamp_seconds",
    "gauge",
    "When the last night ended, for each of its findings (Unix time).",
    ("kind", "level"),
)
OF_NIGHT = (NIGHT, SUCCESS, SUCCEEDED, WAITING, FINDING)

METRICS: dict[str, Metric] = {
    each.name: each
    for each in (
        SCORED,
        FLAGGED,
        EXPLAINED,
        REJECTED,
        FINISHED,
        UNFINISHED,
        STAGE_SECONDS,
        SHARD_SECONDS,
        LEFT,
        WORKERS,
    )
    + (RUN, RUNS, PUBLISHED)
    + OF_NIGHT
}
"""Name -> metric, of all there are."""

Labels = tuple[str, ...]


class Meter:
    """Keeps the figures, and hands them on.

    Parameters
    ----------
    textfile
        A file ``*.prom`` in the folder of node_exporter's textfile collector, replaced as a whole. Counters go on from what it
        holds, so that Prometheus sees no run that is shorter than its interval as none.
    clock
        Seconds that only grow.
    now
        Unix time.

    Raises
    ------
    UserError
        The textfile cannot be written. Once it could, a fault of it disturbs no run.
    """

    def __init__(
        self,
        textfile: str | Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock, self._now = clock, now
        self._cluster: str | None = None
        self._samples: dict[str, dict[Labels, float]] = {}
        self._buckets: dict[str, dict[Labels, list[float]]] = {}
        self._ray: dict[str, Any] | None = None
        self._textfile = None if textfile is None else Path(textfile)
        self._written = -WRITE_EVERY_S
        if self._textfile is not None:
            self._go_on_from(self._textfile)
            try:
                self._write(self._textfile)
            except OSError as error:
                raise UserError(
                    f"the metrics file {textfile} cannot be written ({error.strerror}); name one in a folder that is there and "
                    "open to you"
                ) from error

    # --- What is told ------------------------------------------------------------------------------------------------

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """Hear an event of `pipeline.screen`."""
        if event == "run.planned":
            self._ray = _instruments()
            self._cluster = None if self._ray is None else _address()
            self._only(RUN, 1.0, *(str(facts[name]) for name in RUN.labels))
            self._set(WORKERS, facts["workers"])
        elif event == "shard.finished":
            self._add(FINISHED, 1)
            for metric, key in ((SCORED, "scored"), (FLAGGED, "flagged"), (EXPLAINED, "explained")):
                self._add(metric, facts[key])
            for reason, count in facts["reasons"].items():
                self._add(REJECTED, count, reason)
            for stage, seconds in facts["seconds"].items():
                self._add(STAGE_SECONDS, seconds, stage)
            self._observe(SHARD_SECONDS, sum(facts["seconds"].values()))
        elif event == "shard.unfinished":
            self._add(UNFINISHED, 1)
        elif event in ("run.published", "run.unfinished"):
            self._add(RUNS, 1, event.removeprefix("run."))
            if event == "run.published":
                self._set(PUBLISHED, self._now())
            self._set(WORKERS, 0)
        if "left" in facts:
            self._set(LEFT, facts["left"])
        ended = event in ("run.published", "run.unfinished")
        self.flush(now=ended)
        if ended:
            self._ray = None  # it is left soon, and what stands there stays

    def night(
        self, night: Night, findings: Iterable[tuple[str, str]], *, at: float, address: str | None = None
    ) -> None:
        """Tell of a night that ended ``at`` (Unix time), with its findings as (kind, level).

        The cluster that is told is the one of the night's runs, of ``address``, or of the Ray job that this is.
        """
        self._set(NIGHT, at)
        self._set(SUCCEEDED, float(night.outcome.success))
        if night.outcome.success:
            self._set(SUCCESS, at)
            self._set(LEFT, 0)  # what the hours had no time for waits for another night, and does not stand still
        self._set(WAITING, night.waiting)
        self._samples[FINDING.name] = {labels: at for labels in findings}
        self.flush(now=True)
        with suppress(Exception), _joined(self._cluster or address or os.environ.get("RAY_ADDRESS")):
            self._ray = _instruments()
            for metric in OF_NIGHT if self._ray is not None else ():
                for labels, value in self._samples.get(metric.name, {}).items():
                    self._set(metric, value, *labels)
        self._ray = None

    # --- What is kept ------------------------------------------------------------------------------------------------

    def _add(self, metric: Metric, value: float, *labels: str) -> None:
        of = self._samples.setdefault(metric.name, {})
        of[labels] = of.get(labels, 0.0) + value
        if self._ray is not None and value > 0:
            self._ray[metric.name].inc(value, tags=dict(zip(metric.labels, labels, strict=True)))

    def _set(self, metric: Metric, value: float, *labels: str) -> None:
        self._samples.setdefault(metric.name, {})[labels] = float(value)
        if self._ray is not None:
            self._ray[metric.name].set(float(value), tags=dict(zip(metric.labels, labels, strict=True)))

    def _only(self, metric: Metric, value: float, *labels: str) -> None:
        """Set one and end the others: Ray shows a gauge for as long as the process that set it lives."""
        for other in self._samples.get(metric.name, {}):
            self._set(metric, 0.0, *other)
        self._samples[metric.name] = {}
        self._set(metric, value, *labels)

    def _observe(self, metric: Metric, value: float) -> None:
        counts = self._buckets.setdefault(metric.name, {}).setdefault((), [0.0] * (len(metric.buckets) + 1))
        counts[bisect_left(metric.buckets, value)] += 1
        self._samples.setdefault(metric.name, {})[()] = self._samples.get(metric.name, {}).get((), 0.0) + value
        if self._ray is not None:
            self._ray[metric.name].observe(value, tags={})

    # --- The textfile ------------------------------------------------------------------------------------------------

    def flush(self, *, now: bool = False) -> None:
        """Write the textfile, if there is one and the last time is long ago."""
        if self._textfile is not None and (now or self._clock() - self._written >= WRITE_EVERY_S):
            with suppress(OSError):  # a full disk is a fault of watching, not of the run
                self._write(self._textfile)

    def _write(self, path: Path) -> None:
        from prometheus_client import CollectorRegistry, write_to_textfile

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        write_to_textfile(os.fspath(path), registry)  # into a file beside it, which is renamed
        self._written = self._clock()

    def collect(self) -> Iterator[Family]:
        """Yield what is kept, as prometheus_client asks its collectors for it."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for metric in METRICS.values():
            of = self._samples.get(metric.name, {})
            if metric.kind == "histogram":
                found = HistogramMetricFamily(metric.name, metric.help)
                for labels, counts in self._buckets.get(metric.name, {}).items():
                    below = [sum(counts[: i + 1]) for i in range(len(counts))]
                    bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
                    found.add_metric(labels, list(zip(bounds, below, strict=True)), of[labels])
                yield found
                continue
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            held = family(metric.name, metric.help, labels=metric.labels)
            for labels, value in of.items():
                held.add_metric(labels, value)
            yield held

    def _go_on_from(self, path: Path) -> None:
        """Take up what an earlier run or night left in the textfile; nothing where it cannot be read."""
        from prometheus_client.parser import text_string_to_metric_families

        with suppress(OSError, ValueError, KeyError):
            for family in text_string_to_metric_families(path.read_text()):
                for sample in family.samples:
                    metric = METRICS.get(sample.name)
                    if metric is not None and metric.kind != "histogram":
                        labels = tuple(sample.labels[name] for name in metric.labels)
                        self._samples.setdefault(metric.name, {})[labels] = sample.value


# --- Ray -------------------------------------------------------------------------------------------------------------


def has_agent() -> bool:
    """Whether the Ray that this process has joined shows metrics to Prometheus."""
    import ray

    return ray.is_initialized() and any(node["Alive"] and node["MetricsExportPort"] > 0 for node in ray.nodes())


def _address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


@contextmanager
def _joined(address: str | None) -> Iterator[None]:
    """Be on that cluster for a moment: a night is judged after it has left Ray, and one with nothing new never joined it."""
    import ray

    from screening.cluster import cluster

    with nullcontext() if ray.is_initialized() or not address or address == "local" else cluster(address):
        yield


def _instruments() -> dict[str, Any] | None:
    """Return name -> what Ray counts with; None without an agent to tell it to."""
    if not has_agent():
        return None
    from ray.util.metrics import Counter, Gauge, Histogram

    made: dict[str, Any] = {}
    for name, metric in METRICS.items():
        if metric.kind == "histogram":
            made[name] = Histogram(name, metric.help, boundaries=list(metric.buckets), tag_keys=metric.labels)
        else:
            kind = Counter if metric.kind == "counter" else Gauge
            # Ray puts _total behind the name of a counter.
            made[name] = kind(name.removesuffix("_total"), metric.help, tag_keys=metric.labels)
    return made
