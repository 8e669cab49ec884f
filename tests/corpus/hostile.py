"""Records that attack: bombs, odd numbers, counts that lie, lines without end; no tests."""

from __future__ import annotations

import gzip
import struct
import zlib

from screening.contract import MAX_SIGNALS, Reason
from tests.corpus.case import Case, case, edited, everywhere, until_adc_zero
from tests.wfdb_files import ecg, encode, flac_record, matlab, matlab_record, record, segmented

_FIRST, _GAIN = b"r 12 500 5000", b" 16 1000/mV"


def hostile_files() -> list[Case]:
    """Return records that must be refused without believing them."""
    return [*_odd_numbers(), *_odd_text(), *_bombs(), *_flac(), *_matlab(), *_segments()]


def _odd_numbers() -> list[Case]:
    """Numbers that Python, C or a spreadsheet would read and header(5) does not define, and those that are too large."""
    line, signal = "record line", "line 1 of the signals"
    rates = {
        "underscore": (b"5_00", Reason.BAD_HEADER, line),
        "hexadecimal": (b"0x1F4", Reason.BAD_HEADER, line),
        "decimal_comma": (b"500,0", Reason.BAD_HEADER, line),
        "with_unit": (b"500Hz", Reason.BAD_HEADER, line),
        "nan": (b"nan", Reason.BAD_HEADER, line),
        "word_infinity": (b"inf", Reason.BAD_HEADER, line),
        "endless_exponent": (b"1e99999", Reason.BAD_HEADER, line),
        "arabic_digits": ("\u0665\u0660\u0660".encode(), Reason.BAD_HEADER, line),
        "fullwidth_digits": ("\uff15\uff10\uff10".encode(), Reason.BAD_HEADER, line),
        "sum": (b"250+250", Reason.BAD_HEADER, line),
        "negative_zero": (b"-0", Reason.MISSING_RATE, "states no sampling rate"),
        "denormal": (b"1e-320", Reason.MISSING_RATE, "Hz is no rate"),
        "forty_digits": (b"5" * 30, Reason.MISSING_RATE, "Hz is no rate"),
        "above_the_limit": (b"20000.1", Reason.MISSING_RATE, "20000.1 Hz is no rate"),
        "counter_nan": (b"500/nan", Reason.BAD_HEADER, line),
        "counter_unclosed": (b"500/360(1", Reason.BAD_HEADER, line),
    }
    gains = {
        "word_infinity": (b"inf/mV", Reason.BAD_HEADER, signal),
        "minus_infinity": (b"-inf/mV", Reason.BAD_HEADER, signal),
        "underflows": (b"1e-400/mV", Reason.MISSING_UNITS, "uncalibrated"),
        "negative_zero": (b"-0/mV", Reason.MISSING_UNITS, "uncalibrated"),
        "below_the_limit": (b"9.9e-4/mV", Reason.IMPLAUSIBLE_AMPLITUDE, "more than 1 V"),
        "decimal_comma": (b"1000,5/mV", Reason.BAD_HEADER, signal),
        "baseline_nan": (b"1000(nan)/mV", Reason.BAD_HEADER, signal),
        "baseline_fraction": (b"1000(0.5)/mV", Reason.BAD_HEADER, signal),
        "baseline_too_long": (b"1000(" + b"9" * 19 + b")/mV", Reason.BAD_HEADER, signal),
        "baseline_nested": (b"1000(((((1)))))/mV", Reason.BAD_HEADER, signal),
        "deeply_nested": (b"1000" + b"(" * 20_000 + b"/mV", Reason.BAD_HEADER, signal),
        "unit_twice": (b"1000/mV/mV", Reason.MISSING_UNITS, "not one of voltage"),
        "unit_fullwidth": ("1000/\uff4d\uff36".encode(), Reason.MISSING_UNITS, "not one of voltage"),
        "unit_endless": (b"1000/" + b"mV" * 5_000, Reason.BAD_HEADER, signal),
        "million_digits": (b"1" * 80_000 + b"/mV", Reason.BAD_HEADER, signal),
    }
    frames = {
        "fraction": (b"5000.0", Reason.BAD_HEADER, line),
        "exponent": (b"5e3", Reason.BAD_HEADER, line),
        "negative": (b"-5000", Reason.BAD_HEADER, line),
        "fewer": (b"4999", Reason.CHECKSUM_MISMATCH, "do not add up"),
        "just_above_the_limit": (b"2796203", Reason.TOO_LARGE, "33554436 samples"),
    }
    signals = {
        "negative": (b"-12", Reason.BAD_HEADER, line),
        "fraction": (b"12.0", Reason.BAD_HEADER, line),
        "one": (b"1", Reason.BAD_HEADER, "claims 1 signals and describes 12"),
        "one_above_the_limit": (b"%d" % (MAX_SIGNALS + 1), Reason.TOO_LARGE, "257 signals"),
    }
    formats = {
        "fraction": (b"16.0", Reason.BAD_HEADER, signal),
        "negative": (b"-16", Reason.BAD_HEADER, signal),
        "of_no_samples": (b"0", Reason.MISSING_LEADS, "no signal for I"),
        "skew_negative": (b"16:-1", Reason.BAD_HEADER, signal),
        "skew_endless": (b"16:" + b"9" * 10, Reason.BAD_HEADER, signal),
        "offset_before_skew": (b"16+0:0", Reason.BAD_HEADER, signal),
        "offset_endless": (b"16+" + b"9" * 19, Reason.BAD_HEADER, signal),
        "offset_odd": (b"16+1", Reason.TRUNCATED, "59999 of the 60000"),
        "of_other_byte_order": (b"61", Reason.CHECKSUM_MISMATCH, "do not add up"),
    }
    found = [case(f"rate_{n}", edited({_FIRST: b"r 12 " + t + b" 5000"}), *e) for n, (t, *e) in rates.items()]
    found += [case(f"gain_{n}", everywhere(_GAIN, b" 16 " + t), *e) for n, (t, *e) in gains.items()]
    found += [case(f"frames_{n}", edited({_FIRST: b"r 12 500 " + t}), *e) for n, (t, *e) in frames.items()]
    found += [case(f"signals_{n}", edited({_FIRST: b"r " + t + b" 500 5000"}), *e) for n, (t, *e) in signals.items()]
    return found + [
        case(f"format_{n}", everywhere(b"r.dat 16 ", b"r.dat " + t + b" "), *e) for n, (t, *e) in formats.items()
    ]


def _odd_text() -> list[Case]:
    header, dat = record()["r.hea"], record()["r.dat"]
    spaces = edited({b"r.dat 16": b"r.dat" + b" " * 400_000 + b"!16"})
    line, signal = "record line", "line 1 of the signals"
    return [
        case("lines_end_in_u2028", {"r.hea": header.replace(b"\n", "\u2028".encode())}, Reason.BAD_HEADER, line),
        case("lines_end_in_vertical_tabs", {"r.hea": header.replace(b"\n", b"\v")}, Reason.BAD_HEADER, "describes 0"),
        case("space_that_does_not_break", edited({b"r.dat 16": "r.dat\u00a016".encode()}), Reason.BAD_HEADER, signal),
        case("spaces_without_end", spaces, Reason.BAD_HEADER, signal),
        case("spaces_in_record_line", edited({b"r 12": b"r" + b" " * 900_000 + b"x12"}), Reason.BAD_HEADER, line),
        case("nul_in_lead", edited({b" 0 I\n": b" 0 I\0\n"}), Reason.MISSING_LEADS, "no signal for I$"),
        case("escape_in_lead", edited({b" 0 I\n": b" 0 \x1b[2JI\n"}), Reason.MISSING_LEADS, "no signal for I$"),
        case("lead_fullwidth", edited({b" 0 I\n": " 0 \uff29\n".encode()}), Reason.MISSING_LEADS, "no signal for I$"),
        case("lead_roman_numeral", edited({b" 0 I\n": " 0 \u2160\n".encode()}), Reason.MISSING_LEADS, "for I$"),
        case("lead_cyrillic", edited({b" 0 V1\n": " 0 \u04751\n".encode()}), Reason.MISSING_LEADS, "for V1$"),
        case("lead_endless", edited({b" 0 I\n": b" 0 " + b"I" * 900_000 + b"\n"}), Reason.MISSING_LEADS, "for I$"),
        case("lead_twice_by_other_name", _renamed(b"V1", b"MDC_ECG_LEAD_V2"), Reason.DUPLICATE_LEAD, "V2 is present"),
        case("lines_by_the_thousand", {"r.hea": _FIRST + b"\nr.dat 16" * 90_000}, Reason.BAD_HEADER, "describes 90000"),
        case("record_line_alone", {"r.hea": _FIRST + b"\n", "r.dat": dat}, Reason.BAD_HEADER, "describes 0"),
        case("header_is_the_signal", {"r.hea": dat, "r.dat": dat}, Reason.UNKNOWN_FORMAT, "binary"),
        case("signal_is_the_header", everywhere(b"r.dat", b"r.hea"), Reason.TRUNCATED, "of the 60000 samples"),
        case("signal_is_the_folder", everywhere(b"r.dat", b"."), Reason.UNSAFE_PATH, "outside the record's own folder"),
    ]


def _renamed(old: bytes, new: bytes) -> dict[str, bytes]:
    return edited({b" 0 " + old + b"\n": b" 0 " + new + b"\n"})


def _bombs() -> list[Case]:
    """Files that unpack to very much, in place of samples or of the header: nothing here unpacks them."""
    header, zeros = record()["r.hea"], bytes(20_000_000)
    packed = gzip.compress(zeros, 9, mtime=0)
    inflated = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    matlab_5 = inflated + struct.pack("<II", 15, len(zlib.compress(zeros))) + zlib.compress(zeros)  # miCOMPRESSED
    laughs = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">' + b"".join(
        b'<!ENTITY %c "%s">' % (97 + n, b"&%c;" % (96 + n) * 10) for n in range(1, 10)
    )
    return [
        case("signals_gzip_bomb", {"r.hea": header, "r.dat": gzip.compress(packed)}, Reason.UNKNOWN_FORMAT, "gzip"),
        case("header_gzip_bomb", {"r.hea": packed}, Reason.UNKNOWN_FORMAT, "gzip"),
        case("header_xml_bomb", {"r.hea": laughs + b"]><l>&j;</l>"}, Reason.UNKNOWN_FORMAT, "XML"),
        case("matlab_5_bomb", matlab_record() | {"r.mat": matlab_5}, Reason.UNKNOWN_FORMAT, "MATLAB 5"),
        case("header_pickle", {"r.hea": b"\x80\x04cos\nsystem\n(S'true'\ntR."}, Reason.BAD_HEADER, "record line"),
        case("header_elf", {"r.hea": b"\x7fELF\2\1\1" + bytes(5_000)}, Reason.UNKNOWN_FORMAT, "binary"),
        case(
            "per_frame_bomb",
            everywhere(_GAIN, b" 16x33554432 1000/mV", edited({b"r 12 500": b"r 12 0.00002"})),
            Reason.TOO_LARGE,
            "samples a frame",
        ),
    ]


def _flac() -> list[Case]:
    """FLAC streams that claim more than they hold: what they claim is checked, and what they hold is what counts."""
    whole = flac_record()
    flipped = bytearray(whole["r.flac"])
    flipped[2000] ^= 0x40
    without = flac_record(claim=0)
    return [
        case("flac_claims_the_world", flac_record(claim=2**36 - 1, frames=0), Reason.TOO_LARGE, "412316860410 samples"),
        case("flac_claims_more", flac_record(claim=5_001, frames=5_001), Reason.UNDECODABLE, "format 516"),
        case("flac_claims_hours", flac_record(claim=2_700_000, frames=2_700_000), Reason.UNDECODABLE, "format 516"),
        case("flac_claims_nothing", without, Reason.TRUNCATED, "holds 0 of the 30000"),
        case("flac_cut", whole | {"r.flac": whole["r.flac"][:3_000]}, Reason.UNDECODABLE, "format 516"),
        case("flac_flipped", whole | {"r.flac": bytes(flipped)}, Reason.UNDECODABLE, "format 516"),
        case("flac_head_only", whole | {"r.flac": whole["r.flac"][:42]}, Reason.UNDECODABLE, "format 516"),
        case("flac_of_24_bits", flac_record(stored=524), Reason.BAD_HEADER, "24 bits a sample, the header 16"),
        case("flac_of_8_bits", flac_record(ecg(gain=100.0), stored=508), Reason.BAD_HEADER, "8 bits a sample"),
        case("flac_of_six_channels", _six_of_twelve(), Reason.BAD_HEADER, "6 channels, the header 12"),
    ]


def _six_of_twelve() -> dict[str, bytes]:
    files = flac_record()
    return files | {"r.hea": files["r.hea"].replace(b"s.flac", b"r.flac")}


def _matlab() -> list[Case]:
    """MATLAB level 4 files that are not what the header says; where sums are absent, only their heads can tell."""
    files = matlab_record()
    big = struct.pack(">5I", 1030, 12, 5000, 0, 4) + b"val\0" + ecg().T.astype(">i2").tobytes()
    unsummed = {"r.hea": until_adc_zero(files["r.hea"]), "r.mat": big}
    sparse = struct.pack("<5I", 2, 12, 5000, 0, 4) + files["r.mat"][20:]
    return [
        case("matlab_big_endian", files | {"r.mat": big}, Reason.UNKNOWN_FORMAT, "big-endian MATLAB"),
        case("matlab_big_endian_without_sums", unsummed, Reason.UNKNOWN_FORMAT, "big-endian MATLAB"),
        case(
            "matlab_of_eleven_rows",
            files | {"r.mat": matlab(ecg()[:11])},
            Reason.BAD_HEADER,
            "contradicts the MATLAB file",
        ),
        case("matlab_of_bytes", files | {"r.mat": matlab(ecg(), kind=50, dtype="i1")}, Reason.BAD_HEADER, "MATLAB"),
        case("matlab_head_only", files | {"r.mat": files["r.mat"][:24]}, Reason.TRUNCATED, "0 of the 60000"),
        case("matlab_sparse", files | {"r.mat": sparse[:1000]}, Reason.TRUNCATED, "of the 60000"),
    ]


def _segments() -> list[Case]:
    parts = {name: data for name, data in segmented().items() if name != "r.hea"}
    long = encode(8, ecg(600, gain=100.0)) + bytes(9_000_000)
    heads = {f"r_{n}.hea": record(fmt=8, digital=ecg(600, gain=100.0))["r.hea"] for n in range(8)}
    eight = b"r/8 12 500 4800\n" + b"".join(b"r_%d 600\n" % n for n in range(8))

    def of(header: bytes) -> dict[str, bytes]:
        return parts | {"r.hea": header}

    return [
        case("segments_none", of(b"r/0 12 500 0\n"), Reason.MISSING_LEADS, "I, II, V1"),
        case("segments_none_of_length", of(b"r/0 12 500 5000\n"), Reason.BAD_HEADER, "do not add up"),
        case("segments_without_samples", of(b"r/2 12 500 0\nr_1 0\nr_2 0\n"), Reason.TOO_SHORT, "no samples"),
        case("segments_all_gap", of(b"r/1 12 500 5000\n~ 5000\n"), Reason.MISSING_SAMPLES, "fill 100%"),
        case(
            "segment_negative", of(b"r/2 12 500 5000\nr_1 -1\nr_2 5001\n"), Reason.BAD_HEADER, "line 1 of the segments"
        ),
        case("segment_longer_than_its_file", of(b"r/1 12 500 9000\nr_1 9000\n"), Reason.BAD_HEADER, "another length"),
        case("segment_remote", of(b"r/1 12 500 3000\nhttp://h/r_1 3000\n"), Reason.UNSAFE_PATH, "outside the record's"),
        case(
            "segment_absolute", of(b"r/1 12 500 3000\n/etc/passwd 3000\n"), Reason.UNSAFE_PATH, "outside the record's"
        ),
        case("segments_of_one_file", heads | {"r.hea": eight, "r.dat": long}, Reason.TOO_LARGE, "segments take"),
    ]
