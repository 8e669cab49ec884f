"""XML of electrocardiographs, read without believing it: no entities, nothing from elsewhere, bounded in size."""

from __future__ import annotations

import base64
import binascii
import codecs
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from screening.archive.container import Refused
from screening.contract import Reason

MAX_ELEMENTS = 200_000
"""An ECG with all measurements of every beat has some thousands."""
MAX_DEPTH = 64
_MAX_DECLARATION = 1024
_ENCODING = re.compile(rb"""<\?xml\s[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
_WIDER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "cp950",
}
"""Codecs of East Asia, by one that knows what devices write under their names."""
_SKIPPED = re.compile(r"\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>", re.DOTALL)
_ROOT = re.compile(r"<([A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)([^>]*)")


def root_of(head: bytes) -> str | None:
    """Return the local name of the root element of what begins as XML, None where it is no XML.

    >>> root_of(b'<?xml version="1.0"?><!-- by X --><!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG>')
    'RestingECG'
    """
    text = head.decode(_marked(head) or "latin-1", "replace")  # whatever it declares, names are of ASCII
    at = 0
    while skipped := _SKIPPED.match(text, at):
        at = skipped.end()
    root = _ROOT.match(text, at)
    return root[2] if root else None


def _marked(data: bytes) -> str | None:
    """Return the codec that the first bytes show, None where they are those of a codec that holds ASCII as it is."""
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-16-le" if data[1:2] == b"\0" else "utf-16-be" if data[:1] == b"\0" else None


def _declared(data: bytes) -> str | None:
    """Return the codec that the declaration names, None where there is none or Python's is not one for text alone."""
    found = _ENCODING.match(data[:_MAX_DECLARATION].lstrip())
    try:
        name = codecs.lookup(found[1].decode("ascii")).name if found else ""
    except LookupError:
        return None
    return _WIDER.get(name, name if name.startswith(("iso8859", "cp", "euc", "utf-16", "koi8")) else None)


def _text_of(data: bytes) -> str:
    """Return XML as text without its declaration, by the first codec that gives some: the one declared is often wrong."""
    text = ""
    for codec in filter(None, (_marked(data), _declared(data), "utf-8")):
        with suppress(UnicodeDecodeError):
            text = data.decode(codec).lstrip()
        if text.startswith("<"):  # letters read two by two are text, too
            break
    else:
        text = data.decode("cp1252", "replace").lstrip()
    end = text.index("?>") + 2 if text.startswith("<?xml") and "?>" in text[:_MAX_DECLARATION] else 0
    return text[end:].rstrip("\0\x1a \t\r\n")


class _Bounded(TreeBuilder):
    """A tree of names without namespaces, and of bounded size."""

    def __init__(self) -> None:
        super().__init__()
        self._count = self._depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> Element:
        self._count += 1
        self._depth += 1
        if self._count > MAX_ELEMENTS or self._depth > MAX_DEPTH:
            raise Refused(
                Reason.TOO_LARGE, f"the XML has more than {MAX_ELEMENTS} elements, or {MAX_DEPTH} levels of them"
            )
        return super().start(_local(tag), {_local(name): value for name, value in attrs.items()})

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return super().end(_local(tag))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def parse(data: bytes) -> Element:
    """Return the root element, all names without their namespaces.

    Raises
    ------
    Refused
        BAD_HEADER where it is no well-formed XML, or declares entities; TOO_LARGE beyond `MAX_ELEMENTS`.
    """
    try:
        try:
            return _tree(data)
        except DefusedXmlException:
            raise
        except (
            ParseError,
            ValueError,
            LookupError,
        ):  # expat knows no codec of several bytes, and believes what is declared
            return _tree(_text_of(data))
    except DefusedXmlException:
        raise Refused(Reason.BAD_HEADER, "the XML declares entities, which no ECG needs") from None
    except (ParseError, ValueError):
        raise Refused(Reason.BAD_HEADER, "the XML is not well-formed, or cut off") from None


def _tree(data: bytes | str) -> Element:
    parser = DefusedXMLParser(target=_Bounded(), forbid_dtd=False, forbid_entities=True, forbid_external=True)
    parser.feed(data)
    root: Element = parser.close()
    return root


def text_of(element: Element | None, path: str) -> str | None:
    """Return the text at ``path`` below an element without blanks around it, None where there is none."""
    found = element.findtext(path) if element is not None else None
    return found.strip() or None if found else None


def number_of(element: Element | None, path: str) -> float | None:
    """Return the number at ``path``, None where there is none: "nan" and "inf" are words."""
    try:
        found = float((text_of(element, path) or "").replace(",", "."))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def need(element: Element | None, path: str, reason: Reason, what: str) -> float:
    """Return the number at ``path``; Refused with ``reason`` where there is none."""
    found = number_of(element, path)
    if found is None:
        raise Refused(reason, what)
    return found


def samples_in(text: str | None, separator: str | None = None) -> np.ndarray:
    """Return the numbers between separators, or between blanks, as float64 (samples,); ValueError where one is none."""
    text = (text or "").strip().rstrip(",")
    if not text:
        return np.zeros(0)
    try:
        # Arrow splits and reads numbers in a tenth of the time.
        cells = (
            pc.split_pattern(pa.scalar(text), separator) if separator else pc.ascii_split_whitespace(pa.scalar(text))
        )
        values = pc.ascii_trim_whitespace(cells.values) if separator else cells.values
        return np.asarray(values.cast(pa.float64()))
    except pa.ArrowException:
        return np.array(text.split(separator), np.float64)  # knows "+5", too


def decoded(text: str | None) -> bytes:
    """Return what base64 holds; Refused where it is none."""
    try:
        return base64.b64decode("".join((text or "").split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(Reason.UNDECODABLE, "the samples are no base64") from None


def moment(date: str | None, time: str | None, *formats: str) -> datetime | None:
    """Return the first of ``formats`` that date and time fit, None where none does."""
    for form in formats:
        try:
            return datetime.strptime(f"{date} {time or '00:00:00'}", form)
        except ValueError:
            continue
    return None


def every(element: Element, name: str) -> Iterator[Element]:
    """Yield the elements of this name, however deep."""
    yield from element.iter(name)
