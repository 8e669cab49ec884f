"""``python alone.py LOG COMMAND...``: run a command where there is no network but the loopback device, and count what tried.

Meant to be started by ``unshare --map-root-user --net``. It also sees what no Python process sees: programs written in C++,
as most of Ray is. The kernel counts each packet and connection that had no route.
"""

import fcntl
import socket
import struct
import subprocess
import sys
from pathlib import Path

_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1  # netdevice(7)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        name, flags = struct.unpack("16sh14x", fcntl.ioctl(control, _GET_FLAGS, struct.pack("16sh14x", b"lo", 0)))
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh14x", name, flags | _UP))


def _without_route() -> int:
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines()[:2])
    six = [line.split() for line in Path("/proc/net/snmp6").read_text().splitlines()]
    return int(dict(zip(names, values, strict=True))["OutNoRoutes"]) + int(dict(six)["Ip6OutNoRoutes"])


if __name__ == "__main__":
    log, *command = sys.argv[1:]
    _loopback_up()
    code = subprocess.run(command).returncode
    if tried := _without_route():
        with open(log, "a") as stream:
            stream.write(f"{tried} connections or packets that had no route, from {command}\n")
    sys.exit(code)
