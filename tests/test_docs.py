"""The documentation against the program: commands are run, links followed, messages looked for in the source.

How a page says what is done with its blocks:

- ``console``: lines after ``$`` are run, and what follows is what they print: ``…`` stands for anything in a line, a line
  ``...`` for any lines. ``sh`` and ``python`` are run; a ``text`` block behind one is what it prints.
- ``yaml`` with a first line ``# NAME.yaml`` is written as that file.
- ``<!-- not run: WHY -->`` before a block leaves it out, ``<!-- exits N -->`` says with what it ends.

A page's blocks are run in their order, in one folder.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import pytest

from screening.cli import COMMANDS, group
from screening.contract import Reason
from tests.conftest import PROJECT

DOCS = sorted((PROJECT / "docs").glob("*.md"))
LINKED = [PROJECT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")]
LINKED += [*DOCS, *sorted((PROJECT / "infra").rglob("*.md"))]
NAMED = [PROJECT / "README.md", *DOCS, *sorted((PROJECT / "infra").rglob("*.md"))]
GOES_ON = {"first-archive.md": "reading-results.md"}
"""Page -> the page that goes on in its folder."""
LONG = {"retraining.md", "nightly.md"}
"""Pages that take minutes: whether their commands and options exist is looked up in any case."""
JOBS = {"screen": "run", "report": "report", "retrain": "train", "nightly": "nightly"}


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


# --- What a page holds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str
    not_run: str | None = None
    exits: int = 0


def blocks_of(markdown: str) -> list[Block]:
    """Return the fenced blocks of a page, in order, each with what the comment before it says."""
    found = []
    pattern = r"(?:^<!-- (?P<mark>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    for match in re.finditer(pattern, markdown, re.M | re.S):
        mark = match["mark"] or ""
        not_run, exits = re.fullmatch("not run: (.+)", mark), re.fullmatch(r"exits (\d+)", mark)
        assert not mark or not_run or exits, f"what does {mark!r} mean?"
        found.append(
            Block(match["language"], match["text"], not_run[1] if not_run else None, int(exits[1]) if exits else 0)
        )
    return found


def commands_in(console: str) -> list[tuple[str, str]]:
    """Return the commands of a ``console`` block, and what each is said to print."""
    pieces = re.split(r"^\$ ", console, flags=re.M)
    assert not pieces[0].strip(), "a console block begins with a command"
    found = []
    for piece in pieces[1:]:
        command, printed = re.match(r"((?:[^\n]*\\\n)*[^\n]*\n)(.*)", piece, re.S).groups()  # type: ignore[union-attr]
        found.append((command, printed))
    return found


def is_like(printed: str, said: str) -> bool:
    """Whether an output is what the page shows of it.

    >>> is_like("48 records in 3 s\\nDone\\n", "48 records in … s\\n...\\n"), is_like("48 records\\n", "49 records\\n")
    (True, False)
    """
    lines = [
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace("…", ".*?") + r" *\n" for line in said.splitlines()
    ]
    return re.fullmatch("".join(lines), printed.rstrip("\n") + "\n") is not None


# --- Running a page --------------------------------------------------------------------------------------------------

BETWEEN = "\x1e\n"


def run(words: list[str], folder: Path, *, exits: int = 0) -> str:
    """Run a command in ``folder`` with a state of its own, and return its standard output."""
    own = {"PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))}
    own |= {"SCREENING_STATE": str(folder / "state"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    others = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SCREENING_AUDIT_LOG", "SCREENING_PSEUDONYM_KEY")
    environment = {name: value for name, value in os.environ.items() if name not in others} | own
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == exits, f"{words[-1]}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout if not exits else done.stdout + done.stderr


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page in ``folder``, and hold what they print against what the page shows."""
    blocks = blocks_of(page.read_text())
    variables = folder / ".variables"
    variables.touch()
    programs: list[tuple[str, str]] = []
    for at, block in enumerate(blocks):
        shown = blocks[at + 1].text if at + 1 < len(blocks) and blocks[at + 1].language == "text" else ""
        if block.not_run is not None:
            continue
        if block.language == "yaml" and (named := re.match(r"# (\w+\.yaml)\n", block.text)):
            (folder / named[1]).write_text(block.text)
        elif block.language in ("console", "sh"):
            commands = commands_in(block.text) if block.language == "console" else [(block.text, shown)]
            for command, said in commands:
                script = f"set -a; . ./.variables; set -e\n{command}\nexport -p > .variables"
                printed = run(["bash", "-c", script], folder, exits=block.exits)
                assert not said or is_like(printed, said), f"{page.name}: {command}printed\n{printed}\nand not\n{said}"
        elif block.language == "python":
            programs.append((block.text, shown))
    if programs:  # one program: later blocks go on with what earlier ones named
        text = "".join(f"{program}\nprint({BETWEEN[0]!r}, flush=True)\n" for program, _ in programs)
        outputs = run([sys.executable, "-c", text], folder).split(BETWEEN)
        for (program, said), printed in zip(programs, outputs, strict=False):
            assert is_like(printed, said or "\n"), f"{page.name}: {program}printed\n{printed}"


@pytest.fixture(scope="module")
def folder_of_first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the first archive was screened, as its page says."""
    folder = tmp_path_factory.mktemp("first")
    run_page(PROJECT / "docs" / "first-archive.md", folder)
    return folder


def test_the_first_archive(folder_of_first: Path) -> None:
    assert (folder_of_first / "ecg.png").stat().st_size > 10_000


def test_reading_the_results_of_the_first_archive(folder_of_first: Path) -> None:
    run_page(PROJECT / "docs" / "reading-results.md", folder_of_first)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.long] if page.name in LONG else [])
        for page in DOCS
        if page.name not in {*GOES_ON, *GOES_ON.values()}
    ],
)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


def test_a_page_that_says_otherwise_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in ("$ echo 1\n2", "$ false", "$ echo 1\n1\n1\n...", "$ A=1\n$ echo $A\n2"):
        page.write_text(f"```console\n{text}\n```\n")
        with pytest.raises(AssertionError):
            run_page(page, tmp_path)
    page.write_text(
        "```console\n$ A=1\n$ echo a $A \\\n  b\na … b\n$ seq 3\n1\n...\n```\n<!-- exits 3 -->\n```sh\nexit 3\n```\n"
    )
    run_page(page, tmp_path)
    page.write_text("```python\na = 1\n```\n```python\nprint(a)\n```\n```text\n2\n```\n")
    with pytest.raises(AssertionError):
        run_page(page, tmp_path)


# --- Links -----------------------------------------------------------------------------------------------------------


def prose_of(markdown: str) -> str:
    """Return a page without its code."""
    return re.sub(r"`+[^`]*`+", "`code`", re.sub(r"^```.*?^```$", "", markdown, flags=re.M | re.S))


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the anchors that GitHub makes of a page's headings.

    Lower case, without what is no letter, digit, underscore, hyphen or space; spaces become hyphens; a second one ends in -1.
    """
    found: dict[str, int] = {}
    for heading in re.findall(
        r"^#{1,6} +(.+?) *$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S), re.M
    ):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return frozenset(f"{slug}-{i}" if i else slug for slug, last in found.items() for i in range(last + 1))


def broken_links(path: Path, markdown: str) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    broken = []
    for target in re.findall(r"\]\(<?([^)\s>]+)>?\)", prose_of(markdown)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        there = (path.parent / place).resolve() if place else path
        inside = there.is_relative_to(PROJECT) and there.exists()
        if not inside or (anchor and anchor not in anchors(there)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("path", LINKED, ids=name_of)
def test_every_link_leads_somewhere(path: Path) -> None:
    assert broken_links(path, path.read_text()) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    page = PROJECT / "docs" / "install.md"
    bad = "[a](no.md) [b](../README.md#no) [c](#no) [d](../../x) [e](#extras) [f](https://no.example) `[g](no.md)`"
    assert broken_links(page, bad) == ["no.md", "../README.md#no", "#no", "../../x"]


def test_the_readme_leads_to_every_page() -> None:
    readme = (PROJECT / "README.md").read_text()
    assert [page.name for page in DOCS if f"](docs/{page.name}" not in readme] == []


def threats_of(page: str) -> list[list[str]]:
    """Return the cells of each threat of SECURITY.md: from whom, by what, which test shows it."""
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| **")]
    return [[cell.strip() for cell in row] for row in rows]


def missing_tests(page: str) -> list[str]:
    """Return what the threat model names as tests and is none, and threats that name none."""
    there = {path.name for path in (PROJECT / "tests").rglob("*.py")}
    missing = []
    for who, _, shown in threats_of(page):
        named = re.findall(r"`([\w/.]+)`", shown)
        missing += [name for name in named if not ((PROJECT / name).exists() if "/" in name else name in there)]
        missing += [] if named else [who]
    return missing


def test_every_threat_says_from_whom_by_what_and_which_test_shows_it() -> None:
    page = (PROJECT / "SECURITY.md").read_text()
    assert len(threats_of(page)) >= 6
    assert all(len(row) == 3 and all(row) for row in threats_of(page))
    assert missing_tests(page) == []
    assert missing_tests("| **A thief** | hashes | `test_no_such.py` |\n| **Rain** | a roof | none |") == [
        "test_no_such.py",
        "**Rain**",
    ]


# --- Messages --------------------------------------------------------------------------------------------------------


def said_by_the_program() -> Iterator[str]:
    """Yield every text in the source, with ``…`` for what an f-string fills in."""
    for path in (PROJECT / "screening").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                yield re.sub("…+", "…", "".join(parts))


def test_troubleshooting_quotes_what_the_program_says() -> None:
    page = (PROJECT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| ``(.+?)`` \|", page, re.M)
    assert len(quoted) >= 25
    said = set(said_by_the_program())
    assert [each for each in quoted if not any(each in one for one in said)] == []
    assert [each for each in quoted if len(each) < 30] == []  # a quotation of two words is found anywhere
    reasons = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`[^|]*)\|", page, re.M))))
    assert reasons <= {str(reason) for reason in Reason}
    assert len(reasons) > 10


# --- Commands and options --------------------------------------------------------------------------------------------


def code_of(markdown: str) -> Iterator[str]:
    """Yield the lines of code of a page, continued ones as one, and its code in sentences."""
    for block in blocks_of(markdown):
        yield from block.text.replace("\\\n", " ").splitlines()
    outside = re.sub(r"^```.*?^```$", "", markdown, flags=re.M | re.S)
    for _, code in re.findall(r"(`+)(.+?)\1", outside, re.S):
        yield " ".join(code.split())


def command_of(words: list[str]) -> click.Command:
    """Return the command that words name; AssertionError if there is none."""
    command: click.Command = group
    context = click.Context(group)
    for word in words:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        inner = command.get_command(context, word)
        assert inner is not None, f"there is no command {word!r}"
        command = inner
    return command


def options_of(command: click.Command) -> set[str]:
    return {"--help", "-h", *(name for each in command.params for name in (*each.opts, *each.secondary_opts))}


@cache
def every_option() -> frozenset[str]:
    """Return the options of every command, and those of Ray's that pages name in sentences."""
    from ray.dashboard.modules.job.cli import submit
    from ray.scripts.scripts import start

    found = options_of(group) | options_of(start) | options_of(submit) | {"--gpu-score-ms"}  # of benchmarks.capacity
    for name in COMMANDS:
        command = command_of([name])
        inner: Mapping[str, click.Command] = command.commands if isinstance(command, click.Group) else {}
        found = found.union(options_of(command), *map(options_of, inner.values()))
    return frozenset(found)


def unknown_in(markdown: str) -> list[str]:
    """Return what a page names of commands and options that are not there."""
    wrong = []
    for line in code_of(markdown):
        typed = [
            match.split()
            for match in re.findall(r"""(?:^|(?<!-n)[\s("'/])screening ((?:[a-z]|--)[^;&|<>)`#]*)""", line)
        ]
        typed += [
            [JOBS[job], *rest.split()] for job, rest in re.findall(r"python (?:jobs/)?(\w+)\.py\b([^;&|<>)#]*)", line)
        ]
        for words in typed:
            try:
                known = options_of(command_of(words))
            except (AssertionError, KeyError) as error:
                wrong.append(f"{line}: {error}")
                continue
            given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
            wrong += [f"{line}: {word}" for word in given if word.rstrip(".,") not in {*known, "--version"}]
        if re.match("--[a-z]", line) and line.split()[0].partition("=")[0] not in every_option():
            wrong.append(line)
    return wrong


@pytest.mark.parametrize("path", NAMED, ids=name_of)
def test_every_command_and_option_is_there(path: Path) -> None:
    assert unknown_in(path.read_text()) == []


def test_a_command_or_option_that_is_not_there_is_found() -> None:
    bad = "`screening runn` `--no-such` `screening run --no`\n"
    bad += "```\nscreening audit shown\npython jobs/screen.py --archive a\n```\n"
    assert len(unknown_in(bad)) == 5
    good = "`screening validate sample --runs runs` `--metrics-file F` `screening run` `screening --help`\n"
    assert unknown_in(good) == []
