"""One target under atheris, which changes inputs towards code that none has reached: run by ``python -m tests.fuzz``."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris")
    with atheris.instrument_imports(include=["screening.archive"]):
        from tests.fuzz.targets import targets
    target = next(target for target in targets() if target.name == sys.argv[1])
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
