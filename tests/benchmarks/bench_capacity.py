"""The parts of the capacity model, measured here, and its prediction held against real runs.

    python -m tests.benchmarks.bench_capacity [--archive DIR] [--records 32768] [--explained-records 1024] [--parts OUT]
                                              [--gpu-score-ms MS --gpu-attribute-ms MS] [--rounds R] [--json OUT]

Parts (`capacity.Parts`): reading, filtering, scoring and writing by the bare loop and explaining by the run's own scorer, one
process a core, all at once; the engine's share and the driver's time a shard by the stubbed engine; start-up by a run of 64
records; planning by itself. GPUs are not measured here: give the milliseconds a record that bench_gpu printed elsewhere.

Then `screening run` for a larger archive, unexplained and with flagged records explained, against the prediction for it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_plan import plan_one
from tests.benchmarks.bench_scaling import steady
from tests.benchmarks.capacity import CPU_SHARD, Node, Parts, lines, predict
from tests.benchmarks.contenders import Failed, archive_of, catalog_of, timed
from tests.benchmarks.synthetic_runs import make_catalog
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

RECORDS, EXPLAINED_RECORDS, PARTS_RECORDS, FEW = 32_768, 1024, 4096, 64
"""The first so many that start-up does not hide the rate."""
EXPLAINED_A_CORE = 32
STUBBED_SHARDS = 64
SHARDS = ("--shard-records", str(CPU_SHARD))
PLANNED = 200_000
CORES = os.cpu_count() or 1


def explaining(catalog_path: str, runs_path: str) -> float:
    """Return the seconds a record that explaining takes in this process, by the operators of the default."""
    from screening.archive.catalog import open_catalog
    from screening.archive.reader import ArchiveReader
    from screening.model.bundle import PRETRAINED, load_bundle
    from screening.run.bundles import store_bundle
    from screening.run.donors import donor_set_for
    from screening.run.fingerprint import numerics_fingerprint
    from screening.run.plan import make_plan, read_locations, read_shard, store_plan
    from screening.run.worker import Source, decode_rows, scorer_of
    from screening.settings import RunSettings
    from screening.signal.quality import quality_settings
    from screening.storage import Folder

    catalog, bundle, runs = open_catalog(catalog_path), load_bundle(PRETRAINED), Folder(runs_path)
    settings = RunSettings(attribution="all")  # type: ignore[call-arg]
    reader = ArchiveReader(catalog.root_url)
    donors = donor_set_for(
        runs,
        catalog,
        lambda place, record_id, version: reader.read(place, record_id, version=version),
        preprocessing=bundle.preprocessing,
        input_contract=bundle.input_contract_sha256,
        size=settings.donor_set,
    )
    store_bundle(runs, bundle)
    model = {"name": bundle.name, "version": bundle.version, "bundle_sha256": bundle.sha256}
    plan = make_plan(
        catalog,
        model=model | {"input_contract_sha256": bundle.input_contract_sha256},
        donor_set=donors,
        settings=settings,
        quality=quality_settings(),
        shard_records=EXPLAINED_A_CORE,
        fingerprint=numerics_fingerprint("cpu"),
    )
    run = runs.folder(plan.run_id)
    store_plan(run, catalog, plan)
    scorer = scorer_of(runs, plan)
    decoded = decode_rows(Source(run, plan, bundle.preprocessing, {}), read_shard(run, 0), read_locations(run, 0))
    scorer.score(decoded.slice(0, 4))  # once, so that nothing is made ready in what is timed
    begun = time.perf_counter()
    results = scorer.score(decoded)
    both = time.perf_counter() - begun
    scorer.attribution = "none"
    begun = time.perf_counter()
    scorer.score(decoded)
    return (both - (time.perf_counter() - begun)) / max(1, results["reason"].null_count)


def bare_parts(archive: Path, folder: Path) -> dict[str, float]:
    """Return the seconds a record of the stages of a bare loop, one process a core."""
    layout = ["--processes", str(CORES), "--threads", "1", "--shard-records", "128"]
    out = folder / "bare"
    said = json.loads(
        timed("tests.benchmarks.bare_loop", ["--catalog", catalog_of(archive), "--out", out, *layout], threads=1).stdout
    )
    shutil.rmtree(out)
    return {stage: seconds / PARTS_RECORDS for stage, seconds in said.items()}


def engine_parts(folder: Path, record_s: float) -> dict[str, float]:
    """Return the engine's share, from sleeps as long as the work, and the driver's seconds a shard, from none."""
    catalog = folder / "stub-catalog"
    if not catalog.exists():
        make_catalog(catalog, STUBBED_SHARDS * CPU_SHARD)

    def done(record_ms: float) -> list[Any]:
        runs, said = folder / "stub-runs", folder / "stub.json"
        sleeps = ["--decode-ms", str(0.2 * record_ms), "--score-ms", str(0.8 * record_ms)]
        timed("tests.benchmarks.stubbed", [catalog, runs, *sleeps, *SHARDS, "--json", said], threads=1)
        shutil.rmtree(runs)
        found: list[Any] = json.loads(said.read_text())["done"]
        return found

    fastest = done(0)
    return {
        "efficiency": min(1.0, steady(done(1e3 * record_s)) * record_s / CORES),
        "driver_s": (fastest[-1][2] - fastest[0][2]) / (len(fastest) - 1),
    }


def screened(archive: Path, folder: Path, attribution: str) -> tuple[float, float]:
    """Run the command on an archive; return its seconds and the share of records that it explained."""
    out = folder / "runs"
    arguments = ["run", "--catalog", catalog_of(archive), "--out", out, "--attribution", attribution, "--json"]
    arguments += ["--device", "cpu"]
    try:
        done = timed("screening", arguments)
        said = json.loads(done.stdout)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    if not said["published"]:
        raise Failed(f"screening run did not publish: {said['unfinished']}")
    return done.seconds, said["counts"]["explained"] / said["records"]


def measured_parts(archives: dict[str, Path], folder: Path) -> Parts:
    """Measure everything once."""
    stages = bare_parts(archives["parts"], folder)
    place = str(catalog_of(archives["explained"]))
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        found = pool.starmap(explaining, [(place, str(folder / f"explain-{core}")) for core in range(CORES)])
    for core in range(CORES):
        shutil.rmtree(folder / f"explain-{core}")
    record_s = sum(stages.values())
    engine = engine_parts(folder, record_s)
    if not (folder / "plan-catalog").exists():
        make_catalog(folder / "plan-catalog", PLANNED)
    planned = plan_one(str(folder / "plan-catalog"), str(folder / "plan-runs"))
    shutil.rmtree(folder / "plan-runs")
    small, _ = screened(archives["few"], folder, "none")
    files = [file for file in archives["few"].rglob("*") if file.is_file()]
    return Parts(
        read_s=stages["read"],
        decode_s=stages["decode and quality"],
        score_s=stages["score"],
        write_s=stages["write"],
        attribute_s=sum(found) / len(found),
        start_s=max(0.0, small - FEW * record_s / CORES),
        plan_s=(planned["digest_s"] + planned["store_s"]) / PLANNED,
        record_bytes=sum(file.stat().st_size for file in files) / FEW,
        **engine,
    )


def measure(
    source: Path,
    folder: Path,
    *,
    records: int = RECORDS,
    explained_records: int = EXPLAINED_RECORDS,
    rounds: int = 1,
) -> Report:
    """Measure in ``folder``, on links to the records of ``source``; see `main`."""
    sizes = {"few": FEW, "parts": PARTS_RECORDS, "large": records, "explained": explained_records}
    made = {n: archive_of(source, folder, n) for n in set(sizes.values())}
    archives = {name: made[n] for name, n in sizes.items()}
    here = Node("this machine", CORES, 0, 1e6, 0.0)  # what it reads is in the memory of its files
    ratios: dict[str, list[float]] = {"none": [], "flagged": []}
    figures: list[dict[str, Any]] = []
    for turn in range(rounds):
        parts = measured_parts(archives, folder)
        figures.append({"parts": asdict(parts)})
        for attribution, name in (("none", "large"), ("flagged", "explained")):
            seconds, share = screened(archives[name], folder, attribution)
            said = predict(parts, here, nodes=1, records=sizes[name], explained=share, shard_records=CPU_SHARD)
            ratios[attribution].append(3600 * said.hours / seconds)
            figures[-1][attribution] = {
                "records": sizes[name],
                "explained": share,
                "predicted_s": 3600 * said.hours,
                "measured_s": seconds,
                "limit": said.limit,
            }
            print(
                f"  round {turn + 1}: {sizes[name]:,} records, {attribution} explained ({share:.0%}): predicted "
                f"{3600 * said.hours:.0f} s, measured {seconds:.0f} s",
                file=sys.stderr,
            )
    rows = []
    for attribution, found in ratios.items():
        runs = [figure[attribution] for figure in figures]
        rows.append(
            Row(
                f"capacity model, {runs[0]['records']:,} records, {attribution} explained: predicted / measured seconds",
                spread(found),
                f"{spread(run['predicted_s'] for run in runs)} s predicted",
                f"{spread(run['measured_s'] for run in runs)} s measured",
                f"{runs[0]['limit']}: start-up {spread(f['parts']['start_s'] for f in figures)} s; the engine's share "
                f"{spread(f['parts']['efficiency'] for f in figures)}; driver "
                f"{spread(1e3 * f['parts']['driver_s'] for f in figures)} ms a shard",
                "0.8-1.25",
            )
        )
    return Report("capacity", tuple(rows), {"rounds": figures})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archive", type=Path, help="folder of WFDB records; default: simulated ones at 500 Hz")
    parser.add_argument("--records", type=int, default=RECORDS, help="of the run that is predicted [%(default)s]")
    parser.add_argument("--explained-records", type=int, default=EXPLAINED_RECORDS, help="[%(default)s]")
    parser.add_argument("--gpu-score-ms", type=float, help="a record on one GPU, for the table")
    parser.add_argument("--gpu-attribute-ms", type=float, help="an explained record on one GPU, for the table")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--parts", type=Path, help="write the parts of the last round here, for `capacity`")
    parser.add_argument("--json", type=Path, help="write everything measured here, too")
    options = parser.parse_args()
    where = machine()
    with tempfile.TemporaryDirectory(prefix="screening-bench-") as folder:
        source = options.archive or _simulated(Path(folder))
        try:
            report = measure(
                source,
                Path(folder),
                records=options.records,
                explained_records=options.explained_records,
                rounds=options.rounds,
            )
        except Failed as error:
            sys.exit(f"Error: {error}")
    print(show(report.rows))
    parts = Parts(**report.figures["rounds"][-1]["parts"])
    if options.gpu_score_ms is not None:
        explained = None if options.gpu_attribute_ms is None else options.gpu_attribute_ms / 1e3
        parts = replace(parts, gpu_score_s=options.gpu_score_ms / 1e3, gpu_attribute_s=explained)
    print("\n".join(lines(parts)))
    if options.parts:
        options.parts.write_text(json.dumps(asdict(parts), indent=1) + "\n")
    if options.json:
        write_json(options.json, [report], where=where)


def _simulated(folder: Path) -> Path:
    from screening.signal.simulate import SimulationSettings, write_archive

    write_archive(str(folder / "simulated"), SimulationSettings(records=200, prevalence=0.1, seed=0, rate_hz=500))
    return folder / "simulated"


if __name__ == "__main__":
    main()
