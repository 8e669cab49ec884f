"""A folder served as an S3 bucket that answers late, in a process of its own, so that clients are measured and not the store.

    python -m tests.benchmarks.slow_store FOLDER --latency-ms 30

Reads only: objects, ranges of them, and listings. It prints its URL and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.benchmarks.contenders import PROJECT, environment

BUCKET = "bench"


@contextmanager
def serving(folder: Path, *, latency_ms: float) -> Iterator[dict[str, Any]]:
    """Serve ``folder`` as the bucket `BUCKET` while the block runs; yield fsspec's options."""
    command = [sys.executable, "-m", "tests.benchmarks.slow_store", str(folder), "--latency-ms", str(latency_ms)]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=environment()
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        yield {"key": "key", "secret": "secret", "endpoint_url": url, "skip_instance_cache": True}
    finally:
        server.stdin.close()
        server.wait(30)
        server.stdout.close()


async def _serve(folder: Path, latency_s: float) -> None:
    from aiohttp import web

    root = folder.resolve()
    held: dict[Path, bytes] = {}

    def facts(path: Path) -> tuple[int, str, datetime]:
        status = path.stat()
        mark = hashlib.md5(f"{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()
        return status.st_size, f'"{mark}"', datetime.fromtimestamp(int(status.st_mtime), UTC)

    def listing(prefix: str, delimiter: str) -> str:
        found, folders = [], set()
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            key = path.relative_to(root).as_posix()
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter, 1)[0] + delimiter)
                continue
            size, mark, time = facts(path)
            found.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{time:%Y-%m-%dT%H:%M:%SZ}</LastModified>"
                f"<ETag>{escape(mark)}</ETag><Size>{size}</Size></Contents>"
            )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)
        )
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false'
            f"</IsTruncated><KeyCount>{len(found) + len(folders)}</KeyCount>{''.join(found)}{common}</ListBucketResult>"
        )

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(latency_s)
        _, _, key = request.path.lstrip("/").partition("/")
        if not key:
            text = listing(request.query.get("prefix", ""), request.query.get("delimiter", ""))
            return web.Response(text=text, content_type="application/xml")
        path = root / key
        if not path.is_file():
            return web.Response(
                status=404, text="<Error><Code>NoSuchKey</Code></Error>", content_type="application/xml"
            )
        size, mark, time = facts(path)
        headers = {"ETag": mark, "Last-Modified": f"{time:%a, %d %b %Y %H:%M:%S GMT}", "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(size)})
        if path not in held:
            held[path] = path.read_bytes()
        wanted = request.http_range
        if wanted.start is None and wanted.stop is None:
            return web.Response(body=held[path], headers=headers)
        start, stop = wanted.start or 0, min(wanted.stop or size, size)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return web.Response(status=206, body=held[path][start:stop], headers=headers)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print("http://{}:{}".format(*runner.addresses[0][:2]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency-ms", type=float, default=30)
    options = parser.parse_args()
    asyncio.run(_serve(options.folder, options.latency_ms / 1000))
