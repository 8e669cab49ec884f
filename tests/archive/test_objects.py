"""Objects of S3 in one request: as fsspec gives them, and never a word of its own where it cannot."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from screening.archive import objects
from screening.archive.objects import Objects, objects_below
from screening.archive.reader import ArchiveReader, Fetched
from screening.contract import Reason
from screening.recording import Rejected
from screening.storage import Folder, again
from tests import wfdb_files
from tests.faults.proxy import FaultyProxy

NAMES = ("a/r", "b c/é%20+", "d/x=1,y")


@pytest.fixture
def archive(s3: dict[str, Any]) -> Folder:
    folder = Folder(f"s3://screening/{uuid.uuid4().hex}", s3)
    for name in NAMES:
        stem = name.rsplit("/", 1)[1]
        for file, data in wfdb_files.record(stem).items():
            folder.write(f"{name.rsplit('/', 1)[0]}/{file}", data)
    folder.write("empty.hea", b"")
    return folder


def through_fsspec(archive: Folder) -> ArchiveReader:
    reader = ArchiveReader(archive.url, archive.storage_options)
    reader._objects = None
    return reader


@pytest.mark.parametrize("name", [*NAMES, "empty", "absent", "a/../b"])
@pytest.mark.parametrize("version", [None, "hea:0000000000"])
def test_the_reader_gives_what_it_gives_through_fsspec(archive: Folder, name: str, version: str | None) -> None:
    ours = ArchiveReader(archive.url, archive.storage_options)
    assert ours.fetch(f"{name}.hea", "id", version=version) == through_fsspec(archive).fetch(
        f"{name}.hea", "id", version=version
    )


def test_a_record_is_read_without_a_request_of_fsspec(archive: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ArchiveReader(archive.url, archive.storage_options)
    fs, _ = reader._open()
    for name in ("cat_file", "info", "exists"):
        monkeypatch.setattr(fs, name, lambda *_, **__: pytest.fail("fsspec was asked"))
    found = reader.fetch("a/r.hea", "id", version="hea:?")
    assert isinstance(found, Fetched)
    assert found.files == {name: data for name, data in wfdb_files.record("r").items() if not name.endswith(".hea")}


def test_an_object_tells_its_whole_size_and_the_mark_of_listings(archive: Folder, s3: dict[str, Any]) -> None:
    below = objects_below(archive.url, s3)
    assert below is not None
    data = wfdb_files.record("r")["r.hea"]
    found = below.get("a/r.hea", 5)
    assert found is not None
    (entry,) = (e for e in archive.filesystem.ls(archive.path("a"), detail=True) if e["name"].endswith(".hea"))
    assert (found.data, found.size, found.token) == (data[:5], len(data), entry["ETag"].strip('"'))


def test_a_file_that_was_replaced_is_told_by_the_answer_that_gave_it(archive: Folder) -> None:
    reader = ArchiveReader(archive.url, archive.storage_options)
    found = reader.fetch("a/r.hea", "id", version=".hea:0123456789")
    assert found == Rejected("id", Reason.CHANGED, "a file of the record is not the one that was catalogued")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("gs://bucket/a", {"key": "k", "secret": "s"}),
        ("s3://bucket/a", {}),  # a profile or a role, which the library under s3fs finds
        ("s3://bucket/a", {"key": "k", "secret": "s", "requester_pays": True}),
        ("s3://bucket/a", {"key": "k", "secret": "s", "client_kwargs": {"verify": False}}),
        ("s3://", {"key": "k", "secret": "s"}),
    ],
)
def test_what_is_not_understood_is_left_to_fsspec(
    url: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert objects_below(url, options) is None


def test_without_the_library_fsspec_reads(s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "find_spec", lambda _: None)
    assert objects_below("s3://screening/a", s3) is None


class _Short(BaseHTTPRequestHandler):
    """Has more than it gives, and promises as much as the test says; counts how often it was asked."""

    asked = 0
    promised = "100"

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(206)
        for name, value in {"Content-Length": self.promised, "Content-Range": "bytes 0-99/100", "ETag": '"x"'}.items():
            self.send_header(name, value)
        self.send_header("Last-Modified", "Mon, 23 Nov 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(b"only this")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def short() -> Iterator[Objects]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Short)
    Thread(target=server.serve_forever, daemon=True).start()
    _Short.asked, _Short.promised = 0, "100"
    found = objects_below(
        "s3://bucket/a", {"key": "k", "secret": "s", "endpoint_url": f"http://127.0.0.1:{server.server_port}"}
    )
    assert found is not None
    yield found
    server.shutdown()
    server.server_close()


def test_a_body_that_was_cut_is_nothing_and_who_cuts_all_is_asked_no_more(short: Objects) -> None:
    assert [short.get("r.dat", 1000) for _ in range(20)] == [None] * 20
    assert _Short.asked == objects._FAILURES


def test_an_answer_that_is_shorter_than_the_object_is_nothing(short: Objects) -> None:
    """As of a proxy that cuts bodies and mends their lengths: taken as it is, the record would be a truncated one."""
    _Short.promised = str(len(b"only this"))
    assert short.get("r.dat", 1000) is None
    assert _Short.asked == 1


def test_a_store_that_fails_a_fifth_of_its_requests_costs_requests_and_no_byte(
    archive: Folder, s3: dict[str, Any]
) -> None:
    """Quick form of what `tests/faults/test_object_store.py` does of whole commands."""
    waits = {"connect_timeout": 1, "read_timeout": 1}
    with FaultyProxy(s3["endpoint_url"], seed=3, stall_s=2.0) as proxy:
        folder = Folder(archive.url, s3 | {"endpoint_url": proxy.url, "config_kwargs": waits})

        def work(below: str) -> int:
            before = proxy.requests
            for n in range(12):
                name = f"{below}/{n}"
                folder.write(name, bytes([n]) * 1000)
                assert folder.read(name) == bytes([n]) * 1000
                assert folder.create(f"{name}-once", name.encode())
                assert not folder.create(f"{name}-once", b"another's")
            assert len(folder.names(below)) == 24
            reader = ArchiveReader(folder.url, folder.storage_options)
            for name in NAMES:
                place = f"{name}.hea"
                assert again(lambda place=place: reader.fetch(place, "id")) == through_fsspec(archive).fetch(
                    place, "id"
                )
            return proxy.requests - before

        calm = work("calm")
        assert proxy.faults == 0
        proxy.share = 0.2
        rough = work("rough")
        assert set(proxy.done) >= {"passed", "500", "503", "reset", "lost"}
        assert rough < 2.5 * calm, f"{rough} requests with faults, {calm} without"
