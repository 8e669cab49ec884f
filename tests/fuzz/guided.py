"""One target under atheris, which changes inputs towards code that none has reached: run by ``python -m tests.fuzz``.

Everything of ours in this process is watched for coverage; the child that reads HDF5 is another, so that of it only its answers
guide.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path


def main() -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("Error: atheris is not installed; `make fuzz-guided` installs it, as does pip install '.[fuzz]'.")
    with atheris.instrument_imports(include=["screening"]):
        from tests.fuzz.guard import Guard, limit_memory
        from tests.fuzz.targets import targets
    name, scratch, *options = sys.argv[1:]
    target = next(target for target in targets() if target.name == name)
    for data in target.seeds:  # what is imported late, is imported now
        target.run(data)
    limit_memory()
    guard = Guard()

    def one(data: bytes) -> None:
        try:
            with guard:
                target.run(data)
        except BaseException:  # libFuzzer keeps it too, but does not always come to it when memory ran out
            Path(scratch, f"broken-{name}-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise

    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
