"""What each stage of a run costs a record on one core, as a share of scoring.

    python -m tests.benchmarks.bench_stages --archive DIR [--records N] [--rounds R] [--json OUT]

No Ray, no processes: the functions that a worker calls, one after the other, on the same records in memory, in turns. Times
are the processor's. The aim is that nothing beside scoring takes more than 0.15 of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from screening.archive import wfdb
from screening.archive.reader import ArchiveReader, Fetched
from screening.model.bundle import PRETRAINED, load_bundle
from screening.recording import Recording
from screening.run.fingerprint import CPU_BATCH
from screening.run.stages import DECODE_CHUNK, batched_logits, keep_freed_memory
from screening.signal.preprocess import preprocess
from screening.signal.quality import assess, verdicts
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

LIMITS = {
    "fetching": "two files opened and read, and their paths checked",
    "decoding": "SHA-256 of the bytes, then header and checksums in Python",
    "quality": "one Fourier transform a lead, and some thirty passes over the samples",
    "preprocessing": "two matrix products a recording of twelve rows, too few to fill the multipliers",
}


def chunks(signals: np.ndarray) -> list[np.ndarray]:
    """Return recordings in the groups in which a worker filters them."""
    return [signals[first : first + DECODE_CHUNK] for first in range(0, len(signals), DECODE_CHUNK)]


def measure(archive: Path, *, records: int = 256, rounds: int = 5) -> Report:
    """Time the stages in turns on records of one rate and length."""
    torch.set_num_threads(1)
    keep_freed_memory()
    bundle = load_bundle(PRETRAINED)
    reader = ArchiveReader(str(archive))
    places = [header.relative_to(archive).as_posix() for header in sorted(archive.rglob("*.hea"))]
    fetched: dict[str, Fetched] = {}
    read: list[Recording] = []
    for place in places:
        found = reader.fetch(place, place)
        recording = wfdb.decode(place, *found) if isinstance(found, Fetched) else found
        alike = not read or (isinstance(recording, Recording) and recording.signal_mV.shape == read[0].signal_mV.shape)
        if isinstance(found, Fetched) and isinstance(recording, Recording) and alike:
            fetched[place] = found
            read.append(recording)
        if len(read) == records:
            break
    if len(read) < DECODE_CHUNK:
        raise ValueError(f"{archive} holds {len(read)} good records of one length; {DECODE_CHUNK} are needed")
    rate_hz = read[0].rate_hz
    recorded = chunks(np.stack([recording.signal_mV for recording in read]))
    filtered = np.concatenate([preprocess(chunk, rate_hz, bundle.preprocessing) for chunk in recorded])
    logits = batched_logits(bundle, device="cpu", batch_size=CPU_BATCH)
    stages: dict[str, Callable[[], Sequence[object]]] = {
        "fetching": lambda: [reader.fetch(place, place) for place in fetched],
        "decoding": lambda: [wfdb.decode(place, *bytes_) for place, bytes_ in fetched.items()],
        "quality": lambda: [verdicts(assess(chunk, rate_hz)) for chunk in recorded],
        "preprocessing": lambda: [preprocess(chunk, rate_hz, bundle.preprocessing) for chunk in recorded],
        "scoring": lambda: list(logits(iter(filtered))),
    }
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for turn in range(rounds + 1):
        for name, work in stages.items():
            begun = time.process_time()
            work()
            if turn:  # the first round fills caches
                seconds[name].append((time.process_time() - begun) / len(read))
    rows = [
        Row(
            f"{name} / scoring, seconds of a core a record at {rate_hz:g} Hz",
            spread(ours / scoring for ours, scoring in zip(seconds[name], seconds["scoring"], strict=True)),
            f"{spread(1e3 * one for one in seconds[name])} ms",
            f"{spread(1e3 * one for one in seconds['scoring'])} ms",
            LIMITS[name],
            "<= 0.15",
        )
        for name in stages
        if name != "scoring"
    ]
    return Report("stages", tuple(rows), {"records": len(read), "rate_hz": rate_hz, "seconds_a_record": seconds})


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
