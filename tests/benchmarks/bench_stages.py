"""What each stage of a run costs a record on one core, as a share of scoring.

    python -m tests.benchmarks.bench_stages --archive DIR [--records N] [--rounds R] [--json OUT]

No Ray, no processes: the functions that a worker calls, one after the other on each small group of records as a worker does, so
that each finds what the one before left in the caches. Times are the processor's. The aim is that nothing beside scoring takes
more than 0.15 of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from screening.archive import wfdb
from screening.archive.reader import ArchiveReader
from screening.model.bundle import PRETRAINED, load_bundle
from screening.recording import Recording
from screening.run.fingerprint import CPU_BATCH
from screening.run.stages import DECODE_CHUNK, batched_logits, keep_freed_memory, one_thread
from screening.signal.preprocess import preprocess
from screening.signal.quality import assess, verdicts
from screening.signal.tracing import tracing_hashes
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

LIMITS = {
    "fetching": "two files opened and read, and their paths checked",
    "decoding": "SHA-256 of the bytes, then header and checksums in Python",
    "quality": "three Fourier transforms a lead, two of them of a band",
    "preprocessing": "three matrix products a recording",
    "telling tracings apart": "one pass over the samples, and a product with 256 planes",
}


def alike(reader: ArchiveReader, archive: Path, records: int) -> list[str]:
    """Return where the first good records of one length lie."""
    found: list[str] = []
    shape: tuple[int, ...] | None = None
    for header in sorted(archive.rglob("*.hea")):
        place = header.relative_to(archive).as_posix()
        recording = reader.read(place, place)
        if isinstance(recording, Recording) and recording.signal_mV.shape == (shape or recording.signal_mV.shape):
            shape = recording.signal_mV.shape
            found.append(place)
        if len(found) == records:
            break
    return found


def measure(archive: Path, *, records: int = 256, rounds: int = 5) -> Report:
    """Time the stages in turns on records of one rate and length."""
    torch.set_num_threads(1)
    keep_freed_memory()
    bundle = load_bundle(PRETRAINED)
    reader = ArchiveReader(str(archive))
    places = alike(reader, archive, records)
    if len(places) < DECODE_CHUNK:
        raise ValueError(f"{archive} holds {len(places)} good records of one length; {DECODE_CHUNK} are needed")
    logits = batched_logits(bundle, device="cpu", batch_size=CPU_BATCH)
    seconds: dict[str, list[float]] = {name: [] for name in (*LIMITS, "scoring")}
    rate_hz = 0.0
    with one_thread():  # as a worker
        for turn in range(rounds + 1):
            spent = dict.fromkeys(seconds, 0.0)
            filtered = []
            for first in range(0, len(places), DECODE_CHUNK):
                chunk = places[first : first + DECODE_CHUNK]
                begun = time.process_time()
                fetched = [reader.fetch(place, place) for place in chunk]
                spent["fetching"] += (now := time.process_time()) - begun
                read = [wfdb.decode(place, *found) for place, found in zip(chunk, fetched, strict=True)]  # type: ignore[misc]
                spent["decoding"] += (then := time.process_time()) - now
                recorded = np.stack([recording.signal_mV for recording in read if isinstance(recording, Recording)])
                rate_hz = read[0].rate_hz  # type: ignore[union-attr]
                verdicts(assess(recorded, rate_hz))
                spent["quality"] += (now := time.process_time()) - then
                filtered.append(preprocess(recorded, rate_hz, bundle.preprocessing))
                spent["preprocessing"] += (then := time.process_time()) - now
                tracing_hashes(recorded, rate_hz)
                spent["telling tracings apart"] += time.process_time() - then
            begun = time.process_time()
            list(logits(row for group in filtered for row in group))
            spent["scoring"] += time.process_time() - begun
            if turn:  # the first round fills caches
                for name, value in spent.items():
                    seconds[name].append(value / len(places))
    rows = [
        Row(
            f"{name} / scoring, seconds of a core a record at {rate_hz:g} Hz",
            spread(ours / scoring for ours, scoring in zip(seconds[name], seconds["scoring"], strict=True)),
            f"{spread(1e3 * one for one in seconds[name])} ms",
            f"{spread(1e3 * one for one in seconds['scoring'])} ms",
            LIMITS[name],
            "<= 0.15",
        )
        for name in LIMITS
    ]
    return Report("stages", tuple(rows), {"records": len(places), "rate_hz": rate_hz, "seconds_a_record": seconds})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archive", type=Path, required=True, help="folder of WFDB records, e.g. PTB-XL at 500 Hz")
    parser.add_argument("--records", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    where = machine()
    try:
        report = measure(options.archive, records=options.records, rounds=options.rounds)
    except ValueError as error:
        sys.exit(f"Error: {error}")
    print(show(report.rows))
    if options.json:
        write_json(options.json, [report], where=where)


if __name__ == "__main__":
    main()
