"""WFDB records of every supported kind, and broken and hostile ones; deterministic, no tests.

``valid_cases()`` must be read, ``broken_cases()`` be refused by the reader with the reason each case names, and
``poor_cases()`` pass the reader and be refused by the quality check. ``write(cases, folder)`` makes an archive of them.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from screening.contract import LEADS, Reason
from tests.wfdb_files import SAMPLES, ecg, encode, matlab, matlab_record, record, segmented, signal_line


@dataclass(frozen=True)
class Case:
    """One record: its files by their path, the path of its header, and what must become of it."""

    name: str
    files: dict[str, bytes] = field(repr=False)
    header: str
    expected: Reason | None = None
    message: str = ""  # regular expression that the rejection's detail matches


def _edited(edit: dict[bytes, bytes], files: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """Return a record whose header has each key replaced, once; a key that is absent is a mistake here."""
    files = dict(files or record())
    header = files["r.hea"]
    for old, new in edit.items():
        if old not in header:
            raise ValueError(f"the header has no {old!r}")
        header = header.replace(old, new, 1)
    files["r.hea"] = header
    return files


def _everywhere(old: bytes, new: bytes, files: dict[str, bytes] | None = None) -> dict[str, bytes]:
    files = dict(files or record())
    if old not in files["r.hea"]:
        raise ValueError(f"the header has no {old!r}")
    return files | {"r.hea": files["r.hea"].replace(old, new)}


def _without_lines(*numbers: int) -> dict[str, bytes]:
    files = record()
    lines = files["r.hea"].split(b"\n")
    return files | {"r.hea": b"\n".join(line for i, line in enumerate(lines) if i not in numbers)}


def _case(name: str, files: dict[str, bytes], expected: Reason | None = None, message: str = "") -> Case:
    # Every case has a folder of its own, so that all of them make one archive.
    return Case(name, {f"{name}/{file}": data for file, data in files.items()}, f"{name}/r.hea", expected, message)


def _two_files() -> dict[str, bytes]:
    digital = ecg()
    lines = ["r 12 500 5000"]
    lines += [signal_line("r.dat", "16", d, lead) for d, lead in zip(digital[:6], LEADS[:6], strict=True)]
    lines += [
        signal_line("r.v", "212", d // 4, lead, gain="250") for d, lead in zip(digital[6:], LEADS[6:], strict=True)
    ]
    return {"r.hea": "\n".join(lines).encode(), "r.dat": encode(16, digital[:6]), "r.v": encode(212, digital[6:] // 4)}


def _extra_signals() -> dict[str, bytes]:
    digital = np.concatenate([ecg()[:3], np.full((1, SAMPLES), 77), ecg()[3:], np.full((1, SAMPLES), 78)])
    files = record(digital=digital, leads=(*LEADS[:3], "resp", *LEADS[3:], "vx"))
    # The last signal stands in a file that is absent and in a format that nobody knows: it does not matter.
    files["r.dat"] = encode(16, digital[:-1])
    last = files["r.hea"].rstrip().rsplit(b"\n", 1)[1]
    return _edited({last: b"elsewhere.xyz 999 1/mmHg 16 0 0 1 0 vx"}, files)


def _duplicate(*, shift: int) -> dict[str, bytes]:
    digital = np.concatenate([ecg(), ecg()[6:7] + shift])
    return record(digital=digital, leads=(*LEADS, "V1"))


def _mixed_rates(first: str) -> dict[str, bytes]:
    """Return a record whose first signal, named ``first``, has two samples a frame and the others one."""
    digital = ecg()
    fast = ecg(2 * SAMPLES)[0]
    frames = np.concatenate([fast.reshape(-1, 2), digital.T], axis=1)
    lines = ["r 13 500 5000", signal_line("r.dat", "16x2", fast, first)]
    lines += [signal_line("r.dat", "16", d, lead) for d, lead in zip(digital, LEADS, strict=True)]
    return {"r.hea": "\n".join(lines).encode(), "r.dat": frames.astype("<i2").tobytes()}


def valid_cases() -> list[Case]:
    """Return records that must be read."""
    header, dat = record()["r.hea"], record()["r.dat"]
    missing = ecg()
    missing[2, 100:120] = -32768
    eight = [LEADS.index(lead) for lead in ("V6", "I", "II", "V1", "V2", "V3", "V4", "V5")]
    long_unit = "1e3(0)/\N{MICRO SIGN}V".encode()
    cases = [_case(f"format_{fmt}", record(fmt=fmt)) for fmt in (8, 16, 24, 32, 61, 80, 160, 212, 310, 311)]
    cases += [
        _case("matlab", matlab_record()),
        _case("matlab_without_offset", matlab_record(offset="")),
        _case("two_files", _two_files()),
        _case("extra_signals", _extra_signals()),
        _case("extra_signal_faster", _mixed_rates("resp")),
        _case("eight_leads", record(digital=ecg()[eight], leads=tuple(LEADS[i] for i in eight))),
        _case("duplicate_identical", _duplicate(shift=0)),
        _case("two_samples_a_frame", record(per_frame=2)),
        _case("units_uV", _everywhere(b"1000/mV", b"1.0/uV")),
        _case("units_micro_sign", _everywhere(b"1000/mV", long_unit.replace(b"1e3", b"1"))),
        _case("units_V", _everywhere(b"1000/mV", b"1e6/V")),
        _case("units_default", _everywhere(b"1000/mV", b"1000")),
        _case("gain_baseline", _everywhere(b"1000/mV", b"1000(-12)/mV")),
        _case("gain_baseline_no_unit", _everywhere(b"1000/mV", b"1000.5(7)")),
        _case("gain_scientific", _everywhere(b"1000/mV", b"1.0e+03/mV")),
        _case("baseline_from_adc_zero", _everywhere(b" 16 0 ", b" 16 25 ")),
        _case("missing_samples", record(digital=missing)),
        _case("skew", _edited({b"r.dat 16 ": b"r.dat 16:3 "})),
        _case("byte_offset", {"r.hea": header.replace(b" 16 1000", b" 16+512 1000"), "r.dat": bytes(512) + dat}),
        _case("no_length", _edited({b"r 12 500 5000": b"r 12 500"})),
        _case("zero_length", _edited({b"r 12 500 5000": b"r 12 500 0"})),
        _case("counter_time_date", _edited({b"r 12 500 5000": b"r 12 500.0/360(0.5) 5000 12:30:01.5 31/12/1999"})),
        _case("trailing_bytes", {"r.hea": header, "r.dat": dat + bytes(100)}),
        _case("no_checksums", {"r.hea": _until_adc_zero(header), "r.dat": dat}),
        _case("carriage_returns", {"r.hea": header.replace(b"\n", b"\r\n"), "r.dat": dat}),
        _case("byte_order_mark", {"r.hea": b"\xef\xbb\xbf" + header, "r.dat": dat}),
        _case("comments_anywhere", {"r.hea": b"# first\n\n" + header.replace(b"V1\n", b"V1\n# mid\n"), "r.dat": dat}),
        _case("latin_1_comment", {"r.hea": header + b"# M\xfcller\n#Dx: 164865005\n", "r.dat": dat}),
        _case("tabs", {"r.hea": header.replace(b" ", b"\t"), "r.dat": dat}),
        _case("names_lower_case", _edited({b" aVR": b" avr", b" V1": b" v1", b" I\n": b" Lead I\n"})),
        _case("file_in_subfolder", {"r.hea": header.replace(b"r.dat", b"data/r.dat"), "data/r.dat": dat}),
        _case("segments", segmented()),
        _case("segments_variable", segmented(variable=True)),
    ]
    return cases


def _until_adc_zero(header: bytes) -> bytes:
    """Return a header whose lines leave out initial value, checksum and block size, as some writers do."""
    first, *lines = header.decode().split("\n")
    fields = [line.split() for line in lines if line]
    return "\n".join([first, *(" ".join([*f[:5], f[-1]]) for f in fields), ""]).encode()


def broken_cases() -> list[Case]:
    """Return records that the reader must refuse, each with its reason and a pattern of its message."""
    return [*_broken_files(), *_unsafe_paths(), *_false_claims(), *_broken_headers(), *_broken_segments()]


def _broken_files() -> list[Case]:
    header, dat = record()["r.hea"], record()["r.dat"]
    flipped = bytearray(dat)
    flipped[4321] ^= 0x10
    html = b"<!DOCTYPE html><html><title>404 Not Found</title></html>"
    unsummed, gzipped = _until_adc_zero(header), gzip.compress(dat, 0, mtime=0)  # stored: no shorter than the samples
    return [
        _case("signal_file_absent", {"r.hea": header}, Reason.MISSING_FILE, "not in the archive"),
        _case("header_empty", {"r.hea": b"", "r.dat": dat}, Reason.EMPTY_FILE, "header file is empty"),
        _case("header_blank", {"r.hea": b" \r\n\n", "r.dat": dat}, Reason.EMPTY_FILE, "header file is empty"),
        _case("signals_empty", {"r.hea": header, "r.dat": b""}, Reason.EMPTY_FILE, "signal file is empty"),
        _case("signals_cut", {"r.hea": header, "r.dat": dat[:70_000]}, Reason.TRUNCATED, "35000 of the 60000 samples"),
        _case("signals_cut_by_one", {"r.hea": header, "r.dat": dat[:-1]}, Reason.TRUNCATED, "59999 of the 60000"),
        _case(
            "bit_flipped", {"r.hea": header, "r.dat": bytes(flipped)}, Reason.CHECKSUM_MISMATCH, "samples of I do not"
        ),
        _case("signals_gzipped", {"r.hea": header, "r.dat": gzipped}, Reason.UNKNOWN_FORMAT, "gzip"),
        _case("gzip_without_sums", {"r.hea": unsummed, "r.dat": gzipped}, Reason.UNKNOWN_FORMAT),
        _case("signals_html", {"r.hea": header, "r.dat": html}, Reason.UNKNOWN_FORMAT, "XML"),
        _case("signals_hdf5", {"r.hea": header, "r.dat": b"\x89HDF\r\n\x1a\n" + dat}, Reason.UNKNOWN_FORMAT, "HDF5"),
        _case("header_gzipped", {"r.hea": gzip.compress(header, mtime=0)}, Reason.UNKNOWN_FORMAT, "gzip"),
        _case("header_xml", {"r.hea": b'<?xml version="1.0"?><AnnotatedECG/>'}, Reason.UNKNOWN_FORMAT, "XML"),
        _case("header_dicom", {"r.hea": bytes(128) + b"DICM" + bytes(9)}, Reason.UNKNOWN_FORMAT, "DICOM"),
        _case("header_binary", {"r.hea": bytes(range(256)) * 9}, Reason.UNKNOWN_FORMAT, "binary"),
        _case("header_utf16", {"r.hea": header.decode().encode("utf-16")}, Reason.UNKNOWN_FORMAT, "binary"),
        _case("flac_is_none", _everywhere(b" 16 1000", b" 516 1000"), Reason.UNDECODABLE, "no FLAC stream"),
        _case("matlab_transposed", matlab_record() | {"r.mat": matlab(ecg().T)}, Reason.BAD_HEADER, "MATLAB"),
        _case(
            "matlab_doubles",
            matlab_record() | {"r.mat": matlab(ecg(), kind=0, dtype="<f8")},
            Reason.BAD_HEADER,
            "MATLAB",
        ),
        _case("matlab_cut", matlab_record() | {"r.mat": matlab(ecg())[:5000]}, Reason.TRUNCATED, "of the 60000"),
    ]


def _unsafe_paths() -> list[Case]:
    paths = {
        "parent": b"../secret.dat",
        "climbs_out_of_subfolder": b"a/../../secret.dat",
        "absolute": b"/etc/passwd",
        "home": b"~/secret.dat",
        "backslash": b"..\\secret.dat",
        "drive": b"C:secret.dat",
        "scheme": b"http://198.51.100.1/secret.dat",
        "chained_scheme": b"a::b",
        "percent_encoded": b"%2e%2e/secret.dat",
        "nul": b"r\0.dat",
        "standard_input": b"-",
        "endless_name": b"r" * 5000,
    }
    return [
        _case(f"path_{name}", _edited({b"r.dat": path}), Reason.UNSAFE_PATH, "outside the record's own folder")
        for name, path in paths.items()
    ]


def _false_claims() -> list[Case]:
    first = b"r 12 500 5000"
    return [
        _case("claims_signals", _edited({first: b"r 99999999999999999 500 5000"}), Reason.TOO_LARGE, "signals"),
        _case("claims_samples", _edited({first: b"r 12 500 99999999999999999"}), Reason.TOO_LARGE, "samples"),
        _case("claims_a_bit_more", _edited({first: b"r 12 500 5001"}), Reason.TRUNCATED, "60000 of the 60012"),
        _case("claims_per_frame", _everywhere(b" 16 1000", b" 16x9999999 1000"), Reason.MISSING_RATE, "Hz is no rate"),
        _case(
            "claims_per_frame_beside",
            _edited({b"r 12": b"r 13", b"r.dat": b"r.dat 16x9999999 1 16 0 0 0 0 x\nr.dat"}),
            Reason.TOO_LARGE,
            "samples",
        ),
        _case("claims_no_number", _edited({first: b"r 12 500 " + b"9" * 5000}), Reason.BAD_HEADER, "record line"),
        _case("offset_past_the_end", _everywhere(b" 16 1000", b" 16+999999999 1000"), Reason.TRUNCATED, "0 of the"),
        _case("header_huge", {"r.hea": record()["r.hea"] + b"# x\n" * 300_000}, Reason.TOO_LARGE, "header"),
        _case("checksum_wrong", _wrong_sum(), Reason.CHECKSUM_MISMATCH, "of V4 do not"),
        _case(
            "ends_within_a_frame",
            _edited({first: b"r 12 500"}) | {"r.dat": record()["r.dat"][:-2]},
            Reason.TRUNCATED,
            "within a frame",
        ),
        _case(
            "files_of_two_lengths",
            _edited({b"r 12 500 5000": b"r 12 500"}, _two_files()) | {"r.v": _two_files()["r.v"][:-9]},
            Reason.TRUNCATED,
            "end at different samples",
        ),
    ]


def _wrong_sum() -> dict[str, bytes]:
    digital = ecg()
    row = LEADS.index("V4")
    line = signal_line("r.dat", "16", digital[row], "V4", gain="1000/mV").encode()
    wrong = signal_line(
        "r.dat", "16", digital[row], "V4", gain="1000/mV", checksum=int(digital[row].sum() + 1) & 0xFFFF
    )
    return _edited({line: wrong.encode()})


def _broken_headers() -> list[Case]:
    first, gain = b"r 12 500 5000", b" 16 1000/mV"
    names = b"\n".join(b"r.dat 16 1000/mV 16 0 0 0 0 ch%d" % i for i in range(12))
    more = record()["r.hea"] + b"r.dat 16 1000/mV 16 0 0 0 0 X\n"
    null = record(digital=ecg()[1:], leads=LEADS[1:])
    null = _edited({b"r 11 500 5000": b"r 12 500 5000\n~ 0 1000/mV 16 0 0 0 0 I"}, null)
    return [
        _case("only_comments", {"r.hea": b"# nothing\n"}, Reason.BAD_HEADER, "record line"),
        _case("prose", {"r.hea": b"this is no header\nat all\n"}, Reason.BAD_HEADER, "record line"),
        _case("signal_line_lost", _without_lines(5), Reason.BAD_HEADER, "claims 12 signals and describes 11"),
        _case("signal_line_added", record() | {"r.hea": more}, Reason.BAD_HEADER, "12 signals and describes 13"),
        _case("signal_line_garbled", _edited({b"/mV 16": b"//((mV 16 x"}), Reason.BAD_HEADER, "line 1 of the signals"),
        _case("no_signals", {"r.hea": b"r 0 500 5000\n"}, Reason.MISSING_LEADS, "I, II, V1"),
        _case("names_unknown", {"r.hea": first + b"\n" + names, "r.dat": b""}, Reason.MISSING_LEADS, "I, II, V1"),
        _case("lead_lost", _edited({b" 0 V3": b" 0 V9"}), Reason.MISSING_LEADS, "no signal for V3$"),
        _case("lead_without_samples", null, Reason.MISSING_LEADS, "no signal for I$"),
        _case("lead_twice", _duplicate(shift=1), Reason.DUPLICATE_LEAD, "V1 is present twice"),
        _case("no_rate", _edited({first: b"r 12"}), Reason.MISSING_RATE, "states no sampling rate"),
        _case("rate_zero", _edited({first: b"r 12 0 5000"}), Reason.MISSING_RATE, "states no sampling rate"),
        _case("rate_low", _edited({first: b"r 12 5 5000"}), Reason.MISSING_RATE, "5 Hz is no rate"),
        _case("rate_negative", _edited({first: b"r 12 -500 5000"}), Reason.MISSING_RATE, "-500 Hz"),
        _case("rate_infinite", _edited({first: b"r 12 1e999 5000"}), Reason.MISSING_RATE, "inf Hz"),
        _case("rates_differ", _mixed_rates("I"), Reason.CONFLICTING_RATES, "500 and 1000 Hz"),
        _case("gain_zero", _edited({gain: b" 16 0/mV"}), Reason.MISSING_UNITS, "lead I is uncalibrated"),
        _case("gain_absent", _bare(), Reason.MISSING_UNITS, "lead I is uncalibrated"),
        _case("gain_nan", _edited({gain: b" 16 nan/mV"}), Reason.BAD_HEADER, "line 1 of the signals"),
        _case("gain_overflows", _edited({gain: b" 16 1e999/mV"}), Reason.BAD_HEADER, "gain of signal 1"),
        _case("gain_tiny", _edited({gain: b" 16 1e-300/mV"}), Reason.IMPLAUSIBLE_AMPLITUDE, "more than 1 V"),
        _case("unit_mmHg", _edited({gain: b" 16 1000/mmHg"}), Reason.MISSING_UNITS, "unit of lead I is not one"),
        _case("unit_empty", _edited({gain: b" 16 1000/"}), Reason.BAD_HEADER, "line 1 of the signals"),
        _case("format_unknown", _everywhere(gain, b" 17 1000/mV"), Reason.UNKNOWN_FORMAT, "format 17"),
        _case("formats_mixed", _edited({gain: b" 212 1000/mV"}), Reason.BAD_HEADER, "different storage formats"),
        _case(
            "offsets_mixed", _edited({gain: b" 16+24 1000/mV", b"16 1000": b"16+48 1000"}), Reason.BAD_HEADER, "begin"
        ),
        _case("file_interrupted", _interrupted(), Reason.BAD_HEADER, "do not stand together"),
        _case("per_frame_zero", _edited({gain: b" 16x0 1000/mV"}), Reason.BAD_HEADER, "0 samples a frame"),
    ]


def _bare() -> dict[str, bytes]:
    """Return a record whose signal lines hold a file, a format and a name: what a careless writer leaves."""
    files = record()
    first, *lines = files["r.hea"].decode().split("\n")
    bare = [" ".join([*line.split()[:2], line.split()[-1]]) for line in lines if line]
    return files | {"r.hea": "\n".join([first, *bare, ""]).encode()}


def _interrupted() -> dict[str, bytes]:
    files = record()
    lines = files["r.hea"].split(b"\n")
    lines[4] = lines[4].replace(b"r.dat", b"s.dat")
    return files | {"r.hea": b"\n".join(lines), "s.dat": files["r.dat"]}


def _broken_segments() -> list[Case]:
    whole = segmented()
    first = b"r/2 12 500 5000"
    no_segment = {name: data for name, data in whole.items() if name != "r_2.hea"}
    gaps = _edited({first: b"r/3 12 500 105000", b"r_2 2000": b"~ 100000\nr_2 2000"}, whole)
    nested = whole | {"r_1.hea": b"r_1/1 12 500 3000\nr 3000\n"}
    slower = whole | {"r_2.hea": whole["r_2.hea"].replace(b"12 500 2000", b"12 250 2000")}
    shorter = whole | {"r_2.hea": whole["r_2.hea"].replace(b"12 500 2000", b"12 500 1999")}
    return [
        _case("segment_absent", no_segment, Reason.MISSING_FILE, "not in the archive"),
        _case("segment_unsafe", _edited({b"r_1 ": b"../r_1 "}, whole), Reason.UNSAFE_PATH, "outside the record's own"),
        _case("segment_of_segments", nested, Reason.BAD_HEADER, "segments of its own"),
        _case("segment_is_itself", _edited({b"r_1 ": b"r "}, whole), Reason.BAD_HEADER, "segments of its own"),
        _case("segments_claimed", _edited({first: b"r/9 12 500 5000"}, whole), Reason.BAD_HEADER, "claims 9 segments"),
        _case(
            "segments_huge", _edited({first: b"r/99999999 12 500 5000"}, whole), Reason.TOO_LARGE, "99999999 segments"
        ),
        _case("segments_too_short", _edited({b"r_2 2000": b"r_2 1000"}, whole), Reason.BAD_HEADER, "do not add up"),
        _case("segment_length_differs", shorter, Reason.BAD_HEADER, "another length"),
        _case("segment_rate_differs", slower, Reason.CONFLICTING_RATES, "segments at 250, 500 Hz"),
        _case("segments_mostly_gap", gaps, Reason.MISSING_SAMPLES, "gaps between segments fill 95%"),
        _case(
            "segment_garbled", _edited({b"r_1 3000": b"r_1 many"}, whole), Reason.BAD_HEADER, "line 1 of the segments"
        ),
    ]


def poor_cases() -> list[Case]:
    """Return records that can be read but hold no ECG worth scoring."""
    flat, missing = ecg(), ecg()
    flat[8] = 0
    missing[8] = -32768
    swapped = ecg()
    swapped[[1, 8]] = swapped[[8, 1]]
    return [
        _case("flat_lead", record(digital=flat), Reason.FLAT_LEAD),
        _case("lead_all_missing", record(digital=missing), Reason.MISSING_SAMPLES),
        _case("one_second", record(digital=ecg(500)), Reason.TOO_SHORT),
        _case("unit_a_thousandfold", _everywhere(b"1000/mV", b"1/mV"), Reason.IMPLAUSIBLE_AMPLITUDE),
        _case("limb_leads_contradict", record(digital=swapped), Reason.INCONSISTENT_LIMB_LEADS),
    ]


def all_cases() -> list[Case]:
    """Return every case; their names are unique."""
    return [*valid_cases(), *broken_cases(), *poor_cases()]


def write(cases: Iterable[Case], folder: Path) -> None:
    """Write the cases into ``folder`` as one archive, with a RECORDS file naming each without its suffix."""
    names = []
    for case in cases:
        for path, data in case.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        names.append(case.header.removesuffix(".hea"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RECORDS").write_text("".join(f"{name}\n" for name in names))
