"""The command line. One small module a command, imported only when the command is used."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

import click

import screening
from screening.cli.log import complain, is_json
from screening.contract import NOTICE
from screening.errors import Interrupted, StorageError, UserError, kind_and_place
from screening.telemetry import send_nothing

EXIT_DONE, EXIT_USAGE, EXIT_REJECTS, EXIT_INTERRUPTED = 0, 1, 2, 3
TIDY_UP_S = 20.0
"""So long an interrupted command may take to leave things in order; orchestrators kill 30 s after they asked."""
_GO_ON = "Start the same command again to go on where it stopped."

COMMANDS = {
    "demo": "Simulate an archive, screen it, read a sample of it and report the prevalence.",
    "simulate": "Write an archive of simulated 12-lead ECGs with known infarctions.",
    "catalog": "Scan an archive into a catalog: which records, whose, when, with which labels.",
    "pack": "Copy an archive into large files, from which repeated nights read faster.",
    "convert": "Copy an archive of any format into plain WFDB records, without identifiers.",
    "run": "Screen every record of a catalog; resumes where it stopped.",
    "status": "Show how far a run is and what came out of it.",
    "failures": "Show which records were rejected, and why.",
    "verify": "Compare every byte of a run with what was published, and score a sample again.",
    "repair": "Make damaged or lost files of a run again, as they were.",
    "nightly": "Screen what is new, report, compare with last night: the job of a clock.",
    "report": "Write the prevalence report, and the private worklist of flagged patients.",
    "explain": "Show one record: its score, its leads and its ECG.",
    "validate": "Measure sensitivity and specificity here, by readers of a sample.",
    "train": "Train MSAIC-Net on a labelled catalog and register the bundle.",
    "study": "Compare MSAIC-Net with its parts left out and with its peers.",
    "evaluate": "Measure a model on labelled records it has not seen.",
    "audit-labels": "List training records whose label the predictions contradict.",
    "audit-explanations": "Check a model's explanations against infarcts of stated place.",
    "forget": "Erase patients from a catalog and from all that was published.",
    "pseudonym": "Check the key that makes pseudonyms.",
    "audit": "Show or verify the log of what was done.",
    "models": "List the registered models, and how their champions came and went.",
    "register": "Register a bundle that was made elsewhere, or the one that ships.",
    "promote": "Make a version the champion, if it passes the gate.",
    "rollback": "Make an earlier champion the champion again.",
}
"""Command -> its line in ``screening --help``; the module of the same name, with ``_`` for ``-``, holds it as ``command``."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"screening.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=NOTICE
)
@click.version_option(screening.__version__, prog_name="screening")
def group() -> None:
    """Screen large archives of 12-lead ECGs for myocardial infarction and scar."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 usage or bad input, 2 too many rejects, 3 interrupted and resumable."""
    send_nothing()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        code: Any = group.main(arguments, prog_name="screening", standalone_mode=False)
    except UserError as error:
        complain(f"Error: {error}")
        code = EXIT_USAGE
    except StorageError as error:
        complain(f"Error: {error}; nothing is lost: start the same command again once storage answers")
        code = EXIT_INTERRUPTED
    except Interrupted as error:
        complain(f"Error: {error}. {_GO_ON}")
        sys.stdout.flush()
        os._exit(EXIT_INTERRUPTED)  # Ray's native threads crash when they are taken down without the rest of Ray
    except OSError as error:
        complain(f"Error: {error.strerror or error} ({type(error).__name__}); check the path or URL")
        code = EXIT_USAGE
    except click.ClickException as error:
        if is_json():
            complain(error.format_message())
        else:
            error.show()
        code = EXIT_USAGE
    except click.exceptions.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        complain(f"Interrupted. {_GO_ON}")
        code = EXIT_INTERRUPTED
    except Exception as error:
        if os.environ.get("SCREENING_TRACEBACK"):
            raise
        # Not as Python would: a traceback ends with a message, and messages of libraries quote what they stumble over.
        complain(
            f"Error: a fault of the program: {kind_and_place(error)}; with SCREENING_TRACEBACK=1 in the environment the same "
            "command shows the whole, which may quote patients' data"
        )
        code = EXIT_USAGE
    sys.exit(code if isinstance(code, int) else EXIT_DONE)


def program(arguments: list[str] | None = None) -> NoReturn:
    """Run `main` as the whole of a process, which ends before Python would take itself down.

    Threads of Arrow let go of Python's objects after a read has returned, and one that does so while the interpreter ends
    aborts the process, or holds it for good, when all its work is done (https://github.com/apache/arrow/issues/34314 and
    50482; Python before 3.14 ends such a thread, https://github.com/python/cpython/issues/87135).
    """
    codes: list[int] = []
    atexit.register(
        _end, codes
    )  # the first to be registered is called last: after Ray's, and after all threads of Python
    try:
        main(arguments)
    except SystemExit as error:
        codes.append(error.code if isinstance(error.code, int) else EXIT_DONE)
        raise


def _end(codes: list[int]) -> None:
    if not codes:  # a traceback was asked for
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it is gone
            stream.flush()
    os._exit(codes[0])


def _interrupt(*_: object) -> NoReturn:
    """Interrupt the command, once: what asks again while it tidies up is not heard, and what hangs does not hold it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    last = threading.Timer(TIDY_UP_S, _leave)
    last.daemon = True
    last.start()
    raise KeyboardInterrupt


def _leave() -> None:
    os.write(2, f"Interrupted, and not all could be tidied up. {_GO_ON}\n".encode())
    os._exit(EXIT_INTERRUPTED)
