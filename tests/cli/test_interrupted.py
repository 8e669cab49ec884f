"""How a command ends that is interrupted, or cannot go on: exit code 3, how to go on, in time. Whole runs: `tests/faults`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

GO_ON = "Start the same command again to go on where it stopped."
COMMAND = """
import sys, time
import click
import screening.cli
from screening import errors

@screening.cli.group.command("work")
def work():
    {work}

screening.cli.TIDY_UP_S = {at_most}
screening.cli.COMMANDS["work"] = ""
screening.cli._Lazy.get_command = click.Group.get_command
screening.cli.program(["work"])
"""
INTERRUPTED = """try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        print("tidying up", flush=True)
        time.sleep({seconds})
        print("tidy", flush=True)"""


def interrupt(numbers: list[signal.Signals], *, seconds: float, at_most: float) -> tuple[int, str, str]:
    """Start a command that tidies up for so long, send it signals; return exit code, what it said last, and errors."""
    program = COMMAND.format(work=INTERRUPTED.format(seconds=seconds), at_most=at_most)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "at work\n"
        command.send_signal(numbers[0])
        assert command.stdout.readline() == "tidying up\n"
        for number in numbers[1:]:
            command.send_signal(number)
        out, err = command.communicate(timeout=20)
    return command.returncode, out, err.strip()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_command_tidies_up_undisturbed_and_says_how_to_go_on(first: signal.Signals) -> None:
    again = [first, signal.SIGINT, signal.SIGTERM]
    assert interrupt(again, seconds=0.2, at_most=60) == (3, "tidy\n", f"Interrupted. {GO_ON}")


def test_what_hangs_while_it_tidies_up_does_not_hold_the_command() -> None:
    said = f"Interrupted, and not all could be tidied up. {GO_ON}"
    assert interrupt([signal.SIGTERM], seconds=60, at_most=0.5) == (3, "", said)


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        ("StorageError", 3, "Error: no answer; nothing is lost: start the same command again once storage answers"),
        ("Interrupted", 3, f"Error: no answer. {GO_ON}"),
        ("UserError", 1, "Error: no answer"),
    ],
)
def test_what_may_be_gone_on_with_ends_with_3(raised: str, code: int, said: str) -> None:
    program = COMMAND.format(work=f"raise errors.{raised}('no answer')", at_most=60)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=PROJECT)
    assert (done.returncode, done.stdout) == (code, "")
    assert re.sub(r"\s+", " ", done.stderr).strip() == said
