"""Python imports this by itself when its folder is on PYTHONPATH: it watches, and disturbs, every process of a command.

Every try to reach another machine is written down and refused; a node of a cluster has ``$WATCHED_HERE`` for an address of this
one. While ``$WATCHED/fail`` exists, storage does not give the record whose name holds ``$WATCHED_RECORD``; while
``$WATCHED/fail-altogether`` exists, the worker that asked for it then fails at the next file that it removes. Both have
messages that quote the path, as libraries do.
"""

import errno
import ipaddress
import os
import sys
import traceback

_FOLDER = os.environ.get("WATCHED", "")
_RECORD = os.environ.get("WATCHED_RECORD", "\0")
_HERE = {None, "", "localhost", b"localhost", "0.0.0.0", "::", os.environ.get("WATCHED_HERE")}
_NETWORK = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"}
_failed = ""


def _is_here(host: object) -> bool:
    try:
        return host in _HERE or ipaddress.ip_address(str(host).split("%")[0]).is_loopback
    except ValueError:
        return False


def _watch(event: str, arguments: tuple) -> None:
    global _failed
    if event in _NETWORK:
        of = arguments[1] if event in ("socket.connect", "socket.sendto", "socket.sendmsg") else arguments[0]
        host = of[0] if isinstance(of, tuple) else of
        socket = arguments[0] if event.startswith(("socket.connect", "socket.send")) else None
        local = getattr(socket, "family", None) is not None and socket.family.name not in ("AF_INET", "AF_INET6")
        if not local and not _is_here(host):
            with open(f"{_FOLDER}/network.log", "a") as log:
                stack = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[-5:-1]]
                log.write(f"{event} {host!r} by {sys.argv[:3]} at {stack}\n")
            raise PermissionError(errno.EACCES, "nothing may leave this machine")
    elif event == "open" and isinstance(arguments[0], str) and _RECORD in arguments[0]:
        if os.path.exists(f"{_FOLDER}/fail"):
            _failed = arguments[0]
            raise OSError(errno.EIO, "Input/output error", arguments[0])
    elif event == "os.remove" and _failed and os.path.exists(f"{_FOLDER}/fail-altogether"):
        raise ValueError(f"cannot make sense of {_failed}")


if _FOLDER:
    sys.addaudithook(_watch)
