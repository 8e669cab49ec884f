"""Records that the reader must refuse: truncated, damaged, wrong, and what claims more than it is; no tests."""

from __future__ import annotations

import gzip

from screening.contract import LEADS, Reason
from tests.corpus.case import Case, case, duplicate, edited, everywhere, mixed_rates, two_files, until_adc_zero
from tests.wfdb_files import ecg, matlab, matlab_record, record, segmented, signal_line


def _without_lines(*numbers: int) -> dict[str, bytes]:
    files = record()
    lines = files["r.hea"].split(b"\n")
    return files | {"r.hea": b"\n".join(line for i, line in enumerate(lines) if i not in numbers)}


def broken_files() -> list[Case]:
    """Return records that the reader must refuse, each with its reason and a pattern of its message."""
    return [*_broken_files(), *_unsafe_paths(), *_false_claims(), *_broken_headers(), *_broken_segments()]


def _broken_files() -> list[Case]:
    header, dat = record()["r.hea"], record()["r.dat"]
    flipped = bytearray(dat)
    flipped[4321] ^= 0x10
    html = b"<!DOCTYPE html><html><title>404 Not Found</title></html>"
    unsummed, gzipped = until_adc_zero(header), gzip.compress(dat, 0, mtime=0)  # stored: no shorter than the samples
    return [
        case("signal_file_absent", {"r.hea": header}, Reason.MISSING_FILE, "not in the archive"),
        case("header_empty", {"r.hea": b"", "r.dat": dat}, Reason.EMPTY_FILE, "header file is empty"),
        case("header_blank", {"r.hea": b" \r\n\n", "r.dat": dat}, Reason.EMPTY_FILE, "header file is empty"),
        case("signals_empty", {"r.hea": header, "r.dat": b""}, Reason.EMPTY_FILE, "signal file is empty"),
        case("signals_cut", {"r.hea": header, "r.dat": dat[:70_000]}, Reason.TRUNCATED, "35000 of the 60000 samples"),
        case("signals_cut_by_one", {"r.hea": header, "r.dat": dat[:-1]}, Reason.TRUNCATED, "59999 of the 60000"),
        case(
            "bit_flipped", {"r.hea": header, "r.dat": bytes(flipped)}, Reason.CHECKSUM_MISMATCH, "samples of I do not"
        ),
        case("signals_gzipped", {"r.hea": header, "r.dat": gzipped}, Reason.UNKNOWN_FORMAT, "gzip"),
        case("gzip_without_sums", {"r.hea": unsummed, "r.dat": gzipped}, Reason.UNKNOWN_FORMAT),
        case("signals_html", {"r.hea": header, "r.dat": html}, Reason.UNKNOWN_FORMAT, "XML"),
        case("signals_hdf5", {"r.hea": header, "r.dat": b"\x89HDF\r\n\x1a\n" + dat}, Reason.UNKNOWN_FORMAT, "HDF5"),
        case("header_gzipped", {"r.hea": gzip.compress(header, mtime=0)}, Reason.UNKNOWN_FORMAT, "gzip"),
        case("header_xml", {"r.hea": b'<?xml version="1.0"?><AnnotatedECG/>'}, Reason.TOO_SHORT, "no rhythm series"),
        case("header_dicom", {"r.hea": bytes(128) + b"DICM" + bytes(9)}, Reason.TOO_SHORT, "no ECG waveform"),
        case("header_binary", {"r.hea": bytes(range(256)) * 9}, Reason.UNKNOWN_FORMAT, "binary"),
        case("header_utf16", {"r.hea": header.decode().encode("utf-16")}, Reason.UNKNOWN_FORMAT, "binary"),
        case("flac_is_none", everywhere(b" 16 1000", b" 516 1000"), Reason.UNDECODABLE, "no FLAC stream"),
        case("matlab_transposed", matlab_record() | {"r.mat": matlab(ecg().T)}, Reason.BAD_HEADER, "MATLAB"),
        case(
            "matlab_doubles",
            matlab_record() | {"r.mat": matlab(ecg(), kind=0, dtype="<f8")},
            Reason.BAD_HEADER,
            "MATLAB",
        ),
        case("matlab_cut", matlab_record() | {"r.mat": matlab(ecg())[:5000]}, Reason.TRUNCATED, "of the 60000"),
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
        "object_store": b"s3://bucket/secret.dat",
        "file_scheme": b"file:///etc/passwd",
        "chained_scheme": b"a::b",
        "archive_member": b"zip://secret.dat::file:///x.zip",
        "cached_remote": b"simplecache::s3://bucket/secret.dat",
        "absolute_by_slashes": b"//etc/passwd",
        "dot": b".",
        "escape": b"\x1b[2J.dat",
        "delete": b"r\x7f.dat",
        "encoded_slash": b"..%2fsecret.dat",
        "encoded_backslash": b"..%5csecret.dat",
        "unc": b"\\\\host\\share\\secret.dat",
        "folder": b"data/",
        "percent_encoded": b"%2e%2e/secret.dat",
        "nul": b"r\0.dat",
        "standard_input": b"-",
        "endless_name": b"r" * 5000,
    }
    return [
        case(f"path_{name}", edited({b"r.dat": path}), Reason.UNSAFE_PATH, "outside the record's own folder")
        for name, path in paths.items()
    ]


def _false_claims() -> list[Case]:
    first = b"r 12 500 5000"
    return [
        case("claims_signals", edited({first: b"r 99999999999999999 500 5000"}), Reason.TOO_LARGE, "signals"),
        case("claims_samples", edited({first: b"r 12 500 99999999999999999"}), Reason.TOO_LARGE, "samples"),
        case("claims_a_bit_more", edited({first: b"r 12 500 5001"}), Reason.TRUNCATED, "60000 of the 60012"),
        case("claims_per_frame", everywhere(b" 16 1000", b" 16x9999999 1000"), Reason.MISSING_RATE, "Hz is no rate"),
        case(
            "claims_per_frame_beside",
            edited({b"r 12": b"r 13", b"r.dat": b"r.dat 16x9999999 1 16 0 0 0 0 x\nr.dat"}),
            Reason.TOO_LARGE,
            "samples",
        ),
        case("claims_no_number", edited({first: b"r 12 500 " + b"9" * 5000}), Reason.BAD_HEADER, "record line"),
        case("offset_past_the_end", everywhere(b" 16 1000", b" 16+999999999 1000"), Reason.TRUNCATED, "0 of the"),
        case("header_huge", {"r.hea": record()["r.hea"] + b"# x\n" * 300_000}, Reason.TOO_LARGE, "header"),
        case("checksum_wrong", _wrong_sum(), Reason.CHECKSUM_MISMATCH, "of V4 do not"),
        case(
            "ends_within_a_frame",
            edited({first: b"r 12 500"}) | {"r.dat": record()["r.dat"][:-2]},
            Reason.TRUNCATED,
            "within a frame",
        ),
        case(
            "files_of_two_lengths",
            edited({b"r 12 500 5000": b"r 12 500"}, two_files()) | {"r.v": two_files()["r.v"][:-9]},
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
    return edited({line: wrong.encode()})


def _broken_headers() -> list[Case]:
    first, gain = b"r 12 500 5000", b" 16 1000/mV"
    names = b"\n".join(b"r.dat 16 1000/mV 16 0 0 0 0 ch%d" % i for i in range(12))
    more = record()["r.hea"] + b"r.dat 16 1000/mV 16 0 0 0 0 X\n"
    null = record(digital=ecg()[1:], leads=LEADS[1:])
    null = edited({b"r 11 500 5000": b"r 12 500 5000\n~ 0 1000/mV 16 0 0 0 0 I"}, null)
    return [
        case("only_comments", {"r.hea": b"# nothing\n"}, Reason.BAD_HEADER, "record line"),
        case("prose", {"r.hea": b"this is no header\nat all\n"}, Reason.BAD_HEADER, "record line"),
        case("signal_line_lost", _without_lines(5), Reason.BAD_HEADER, "claims 12 signals and describes 11"),
        case("signal_line_added", record() | {"r.hea": more}, Reason.BAD_HEADER, "12 signals and describes 13"),
        case("signal_line_garbled", edited({b"/mV 16": b"//((mV 16 x"}), Reason.BAD_HEADER, "line 1 of the signals"),
        case("no_signals", {"r.hea": b"r 0 500 5000\n"}, Reason.MISSING_LEADS, "I, II, V1"),
        case("names_unknown", {"r.hea": first + b"\n" + names, "r.dat": b""}, Reason.MISSING_LEADS, "I, II, V1"),
        case("lead_lost", edited({b" 0 V3": b" 0 V9"}), Reason.MISSING_LEADS, "no signal for V3$"),
        case("lead_without_samples", null, Reason.MISSING_LEADS, "no signal for I$"),
        case("lead_twice", duplicate(shift=1), Reason.DUPLICATE_LEAD, "V1 is present twice"),
        case("no_rate", edited({first: b"r 12"}), Reason.MISSING_RATE, "states no sampling rate"),
        case("rate_zero", edited({first: b"r 12 0 5000"}), Reason.MISSING_RATE, "states no sampling rate"),
        case("rate_low", edited({first: b"r 12 5 5000"}), Reason.MISSING_RATE, "5 Hz is no rate"),
        case("rate_negative", edited({first: b"r 12 -500 5000"}), Reason.MISSING_RATE, "-500 Hz"),
        case("rate_infinite", edited({first: b"r 12 1e999 5000"}), Reason.MISSING_RATE, "inf Hz"),
        case("rates_differ", mixed_rates("I"), Reason.CONFLICTING_RATES, "500 and 1000 Hz"),
        case("gain_zero", edited({gain: b" 16 0/mV"}), Reason.MISSING_UNITS, "lead I is uncalibrated"),
        case("gain_absent", _bare(), Reason.MISSING_UNITS, "lead I is uncalibrated"),
        case("gain_nan", edited({gain: b" 16 nan/mV"}), Reason.BAD_HEADER, "line 1 of the signals"),
        case("gain_overflows", edited({gain: b" 16 1e999/mV"}), Reason.BAD_HEADER, "gain of signal 1"),
        case("gain_tiny", edited({gain: b" 16 1e-300/mV"}), Reason.IMPLAUSIBLE_AMPLITUDE, "more than 1 V"),
        case("unit_mmHg", edited({gain: b" 16 1000/mmHg"}), Reason.MISSING_UNITS, "unit of lead I is not one"),
        case("unit_empty", edited({gain: b" 16 1000/"}), Reason.BAD_HEADER, "line 1 of the signals"),
        case("format_unknown", everywhere(gain, b" 17 1000/mV"), Reason.UNKNOWN_FORMAT, "format 17"),
        case("formats_mixed", edited({gain: b" 212 1000/mV"}), Reason.BAD_HEADER, "different storage formats"),
        case("offsets_mixed", edited({gain: b" 16+24 1000/mV", b"16 1000": b"16+48 1000"}), Reason.BAD_HEADER, "begin"),
        case("file_interrupted", _interrupted(), Reason.BAD_HEADER, "do not stand together"),
        case("per_frame_zero", edited({gain: b" 16x0 1000/mV"}), Reason.BAD_HEADER, "0 samples a frame"),
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
    gaps = edited({first: b"r/3 12 500 105000", b"r_2 2000": b"~ 100000\nr_2 2000"}, whole)
    nested = whole | {"r_1.hea": b"r_1/1 12 500 3000\nr 3000\n"}
    slower = whole | {"r_2.hea": whole["r_2.hea"].replace(b"12 500 2000", b"12 250 2000")}
    shorter = whole | {"r_2.hea": whole["r_2.hea"].replace(b"12 500 2000", b"12 500 1999")}
    return [
        case("segment_absent", no_segment, Reason.MISSING_FILE, "not in the archive"),
        case("segment_unsafe", edited({b"r_1 ": b"../r_1 "}, whole), Reason.UNSAFE_PATH, "outside the record's own"),
        case("segment_of_segments", nested, Reason.BAD_HEADER, "segments of its own"),
        case("segment_is_itself", edited({b"r_1 ": b"r "}, whole), Reason.BAD_HEADER, "segments of its own"),
        case("segments_claimed", edited({first: b"r/9 12 500 5000"}, whole), Reason.BAD_HEADER, "claims 9 segments"),
        case("segments_huge", edited({first: b"r/99999999 12 500 5000"}, whole), Reason.TOO_LARGE, "99999999 segments"),
        case("segments_too_short", edited({b"r_2 2000": b"r_2 1000"}, whole), Reason.BAD_HEADER, "do not add up"),
        case("segment_length_differs", shorter, Reason.BAD_HEADER, "another length"),
        case("segment_rate_differs", slower, Reason.CONFLICTING_RATES, "segments at 250, 500 Hz"),
        case("segments_mostly_gap", gaps, Reason.MISSING_SAMPLES, "gaps between segments fill 95%"),
        case("segment_garbled", edited({b"r_1 3000": b"r_1 many"}, whole), Reason.BAD_HEADER, "line 1 of the segments"),
    ]
