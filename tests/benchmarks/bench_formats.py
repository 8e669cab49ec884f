"""How many records a second does a core read of each format, and what limits it?

    python -m tests.benchmarks.bench_formats --archive DIR [--records N] [--rounds R] [--json OUT]

The same ECGs, written in every format that we can write, are read from the disk in turns, so that whatever else the machine
does meets all alike. WFDB at the same rate is what the others are held against.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from screening.archive.reader import ArchiveReader
from screening.contract import LEADS
from screening.recording import Recording
from tests import hospital_files
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

LIMITS = {
    "muse-xml": "base64, SHA-256, parsing some hundred elements",
    "cardiosoft-xml": "60,000 decimal numbers, by Arrow, and parsing",
    "sierra-xml": "UTF-16 to text, base64",
    "hl7-aecg": "60,000 decimal numbers, by Arrow, and parsing",
    "dicom": "pydicom's parsing of some hundred elements, in Python",
    "scp-ecg": "Huffman codes: what would be read at each bit, then from code to code in Python",
    "edf": "SHA-256, scaling",
    "csv": "decimal numbers, read by Arrow",
    "npy": "two files and the sidecar looked for, SHA-256, scaling",
    "hdf5": "HDF5 itself, then as npy",
}


def measure(archive: Path, folder: Path, *, records: int = 32, rounds: int = 3) -> Report:
    """Time the reading of ``records`` of an archive's ECGs in each format."""
    headers = sorted(archive.rglob("*.hea"))[:records]
    originals, places = ArchiveReader(str(archive)), {"wfdb": [h.relative_to(archive).as_posix() for h in headers]}
    root = folder / "formats"
    in_hdf5: dict[int, np.ndarray] = {}
    for number, place in enumerate(places["wfdb"]):
        recording = originals.read(place, "x")
        if not isinstance(recording, Recording):
            raise ValueError(f"{place} is rejected ({recording.reason}); give an archive of good records")
        digital = np.rint(recording.signal_mV * 1000 / hospital_files.STEP_UV).astype(np.int64)
        in_hdf5[number] = digital
        made = {form: (suffix, writer(digital)) for form, (suffix, writer) in hospital_files.WRITERS.items()}
        made |= {"csv": (".csv", hospital_files.csv(digital)), "npy": (".npy", hospital_files.npy(digital))}
        for form, (suffix, data) in made.items():
            (root / form).mkdir(parents=True, exist_ok=True)
            (root / form / f"{number}{suffix}").write_bytes(data)
            places.setdefault(form, []).append(f"{form}/{number}{suffix}")
    longest = max(digital.shape[1] for digital in in_hdf5.values())
    (root / "all.h5").write_bytes(hospital_files.hdf5(in_hdf5, samples=longest))
    places["hdf5"] = [f"all.h5#{number}" for number in in_hdf5]
    (root / "ecg.yaml").write_bytes(hospital_files.sidecar(leads=list(LEADS), layout="samples_by_leads"))
    reader = ArchiveReader(str(root))
    seconds: dict[str, list[float]] = {form: [] for form in places}
    for turn in range(rounds + 1):
        for form, names in places.items():
            begun = time.perf_counter()
            for name in names:
                outcome = (originals if form == "wfdb" else reader).read(name, "x")
                assert isinstance(outcome, Recording), outcome
            if turn:  # the first warms
                seconds[form].append((time.perf_counter() - begun) / len(names))
    rows = tuple(
        Row(
            f"{form} / WFDB, seconds a record",
            spread(one / other for one, other in zip(times, seconds["wfdb"], strict=True)),
            f"{1 / spread(times).median:,.0f} records/s of a core, {spread(1e3 * s for s in times)} ms",
            f"{1 / spread(seconds['wfdb']).median:,.0f} records/s",
            LIMITS[form],
        )
        for form, times in seconds.items()
        if form != "wfdb"
    )
    shutil.rmtree(root)
    return Report("formats", rows, {"records": len(headers), "seconds_a_record": seconds})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archive", type=Path, required=True, help="folder of WFDB records")
    parser.add_argument("--records", type=int, default=32, help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="screening-bench-") as folder:
        report = measure(options.archive, Path(folder), records=options.records, rounds=options.rounds)
    print(show(report.rows))
    if options.json:
        write_json(options.json, [report], where=machine())


if __name__ == "__main__":
    main()
