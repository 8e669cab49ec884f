"""What a record costs beside work that does not change: ratios that a slower version shows on any machine, in seconds.

    python -m tests.benchmarks.guard --archive DIR [--write]

Each ratio is the processor's time of fixed work (another library's, or plain PyTorch) by that of ours on the same records, both
measured in turns in this process: higher is better. ``guard.json`` holds what it was when a change last moved it on purpose
(``--write``), and ``make test`` fails below ``TOLERANCE`` of that.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import fft
from scipy.signal import butter, resample_poly, sosfiltfilt

from screening.archive.reader import ArchiveReader
from screening.attribution.permutation import importances
from screening.attribution.swaps import swap_scorer
from screening.model.bundle import PRETRAINED, load_bundle
from screening.recording import Recording
from screening.run.fingerprint import CPU_BATCH
from screening.run.stages import keep_freed_memory
from screening.signal.preprocess import preprocess
from screening.signal.quality import assess, verdicts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import wfdb

STORED = Path(__file__).with_name("guard.json")
TOLERANCE = 0.75
"""Ratios on a machine that does other things, too, were 0.85 of those on a quiet one and more."""
ROUNDS = 4
RECORDS = 32
DONORS = 4

Work = Callable[[], object]


def ratios(archive: Path) -> dict[str, float]:
    """Return fixed work by ours for each stage, on the first records below ``archive``; all are of one rate and length."""
    torch.set_num_threads(1)
    keep_freed_memory()
    bundle = load_bundle(PRETRAINED)
    places = [path.relative_to(archive).as_posix() for path in sorted(archive.rglob("*.hea"))[:RECORDS]]
    reader = ArchiveReader(str(archive))
    read = [reader.read(place, place) for place in places]
    recordings = [recording for recording in read if isinstance(recording, Recording)]
    rate_hz = recordings[0].rate_hz
    recorded = np.stack([recording.signal_mV for recording in recordings])
    filtered = preprocess(recorded, rate_hz, bundle.preprocessing)
    band = butter(2, [0.5, 40], "bandpass", fs=100, output="sos")
    network, folded = bundle.network(), bundle.network().for_scoring()
    x = torch.from_numpy(filtered[:CPU_BATCH])
    donors, orders = filtered[-DONORS:], [np.arange(DONORS)] * 8

    def score(net: torch.nn.Module) -> object:
        with torch.inference_mode():
            return net(x)

    def explain() -> object:
        scorer = swap_scorer(folded, donors, device="cpu", batch_size=CPU_BATCH)
        taken = scorer.take(filtered[:8])
        return importances(scorer, ["lead"], taken, [0.0] * 8, orders, most=DONORS, target_se=0.0)

    def filter_each() -> object:
        return [sosfiltfilt(band, resample_poly(one, 100, round(rate_hz), axis=1), axis=1) for one in recorded]

    def forwards() -> None:
        for _ in range(12 * DONORS * 8 // CPU_BATCH):
            score(network)

    pairs: dict[str, tuple[Work, Work]] = {
        "reading / wfdb.rdrecord": (
            lambda: [wfdb.rdrecord(str(archive / place.removesuffix(".hea"))) for place in places[:8]],
            lambda: [reader.read(place, place) for place in places[:8]],
        ),
        "preprocessing / scipy, record by record": (
            filter_each,
            lambda: preprocess(recorded, rate_hz, bundle.preprocessing),
        ),
        "quality / one Fourier transform": (
            lambda: fft.rfft(recorded[:16]),
            lambda: verdicts(assess(recorded[:16], rate_hz)),
        ),
        "scoring / plain PyTorch": (lambda: score(network), lambda: score(folded)),
        "explaining 12 leads / plain forwards": (forwards, explain),
    }
    found: dict[str, float] = {}
    for name, pair in pairs.items():
        best = [float("inf"), float("inf")]
        for turn in range(ROUNDS + 1):
            for which, work in enumerate(pair):
                begun = time.process_time()
                work()
                if turn:  # the first makes ready
                    best[which] = min(best[which], time.process_time() - begun)
        found[name] = round(best[0] / best[1], 3)
    return found


def main() -> None:
    """Measure, and print beside what is stored."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archive", type=Path, required=True, help="folder of WFDB records, e.g. PTB-XL at 500 Hz")
    parser.add_argument("--write", action="store_true", help="store what was measured; wants a quiet machine")
    options = parser.parse_args()
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    found = ratios(options.archive)
    for name, ratio in found.items():
        print(f"{name:<45} {ratio:6.2f}  stored {stored.get(name, float('nan')):6.2f}")
    if options.write:
        STORED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
