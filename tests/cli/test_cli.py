from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from screening.cli import COMMANDS
from tests.conftest import PROJECT


def screening(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "screening", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_two_examples_and_stands_in_the_readme(name: str) -> None:
    shown = screening(name, "--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    examples = [line for line in shown.stdout.splitlines() if line.strip().startswith(f"screening {name}")]
    assert len(examples) >= 2, shown.stdout
    assert "--json" in shown.stdout
    assert f"screening {name}" in (PROJECT / "README.md").read_text()


def test_help_needs_none_of_the_heavy_libraries() -> None:
    code = "import sys; from screening.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'pyarrow', 'scipy', 'numpy'} & set(sys.modules)\n"
    code += "sys.exit(str(heavy) if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    for name, line in COMMANDS.items():
        assert name in done.stdout
        assert line.split()[0] in done.stdout
    assert "Not a medical device" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing option '--catalog'"),
        (["wash"], "No such command 'wash'"),
        (
            ["run", "--catalog", "nowhere", "--out", "x"],
            "There is no catalog at nowhere; make one with: screening catalog",
        ),
        (["catalog", "/nowhere/at/all", "--out", "x"], "There is no archive at '/nowhere/at/all'"),
        (["status", "nowhere"], "nowhere is not a run: it holds no plan.json; name a folder RUNS/<run_id>"),
        (["verify", "nowhere"], "nowhere is not a run"),
        (["failures", "nowhere"], "nowhere is not a run"),
        (
            ["run", "--catalog", "c", "--out", "x", "--donors", "1"],
            "--donors: input should be greater than or equal to 2",
        ),
        (["run", "--catalog", "c", "--out", "x", "--model", "/nowhere"], "/nowhere"),
        (["run", "--catalog", "c", "--out", "x", "--storage-options", "{"], "is not JSON"),
        (["report", "--runs", "nowhere", "--catalog", "nowhere", "--out", "x"], "There is no catalog at nowhere"),
        (
            ["report", "--runs", "r", "--catalog", "c", "--out", "x", "--since", "yesterday"],
            "--since: input should be a valid date",
        ),
        (["explain", "r1", "--runs", "nowhere", "--catalog", "nowhere"], "There is no catalog at nowhere"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = screening(*arguments, *(["--json"] if arguments[0] != "wash" else []))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (PROJECT / "x").exists()


def test_a_wrong_key_in_the_settings_file_is_named_with_its_line(tmp_path: Path) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text("# nightly\nattribution: flagged\nshard_size: 12\n")
    done = screening("run", "--catalog", "c", "--out", "x", "--config", settings)
    assert done.returncode == 1
    assert (
        f"Error: {settings}, line 3: shard_size: extra inputs are not permitted; known keys are attribution,"
        in done.stderr
    )


def test_a_changed_model_is_refused(tmp_path: Path) -> None:
    from tests.bundles import make_bundle

    bundle = make_bundle(tmp_path / "bundle")
    facts = json.loads((bundle.path / "bundle.json").read_text())
    facts["threshold"]["probability"] = 0.01
    (bundle.path / "bundle.json").write_text(json.dumps(facts))
    catalog = tmp_path / "catalog"
    done = screening("run", "--catalog", catalog, "--out", tmp_path / "runs", "--model", bundle.path)
    assert done.returncode == 1
    assert f"Error: {bundle.path}/bundle.json" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_demo_runs_and_says_where_the_results_are(tmp_path: Path) -> None:
    done = screening("demo", "--dest", tmp_path / "demo", "--records", "200")
    assert done.returncode == 0, done.stderr
    assert "200 simulated ECGs in, 200 outcomes out" in done.stdout
    (results,) = (tmp_path / "demo").glob("runs-200-0/*/results")
    assert f"Results: {results}/*.parquet" in done.stdout
    assert "AUROC 0." in done.stdout
    assert "Prevalence among the patients, which the simulator knows to be" in done.stdout
    assert f"Report: {tmp_path / 'demo' / 'report' / 'report.html'}" in done.stdout
    page = (tmp_path / "demo" / "report" / "report.html").read_text()
    assert "what the simulator knows" in page
    run = results.parent
    status = json.loads(screening("status", run, "--json").stdout)
    assert (status["published"], status["done"]) == (True, 200)
    assert "whole; every file is as published" in screening("verify", run).stdout
    assert screening("failures", run).stdout.startswith(f"{status['rejected']} rejected records")


ENDING = """
import io, sys, threading, time
import click, pyarrow as pa, pyarrow.parquet as pq
import screening.cli

class Slow(io.BytesIO):
    asked = threading.Event()
    def read(self, *size):
        if threading.current_thread() is not threading.main_thread():
            self.asked.set()
            time.sleep(0.5)
        return super().read(*size)

@screening.cli.group.command("read")
def read():
    held = pa.BufferOutputStream()
    pq.write_table(pa.table({"number": range(1000)}), held, row_group_size=100)
    file = pq.ParquetFile(Slow(held.getvalue().to_pybytes()), pre_buffer=True)
    threading.Thread(target=lambda: next(file.iter_batches()), daemon=True).start()
    assert Slow.asked.wait(10)
    click.echo("all done")
    return 2

screening.cli.COMMANDS["read"] = ""
screening.cli._Lazy.get_command = click.Group.get_command
screening.cli.ENTRY(["read"])
"""
"""A command that ends while a thread of Arrow is inside a file object of Python."""


@pytest.mark.parametrize("entry", ["main", "program"])
def test_a_program_ends_with_its_code_though_a_thread_of_arrow_still_holds_an_object(entry: str) -> None:
    if entry == "main" and sys.version_info >= (3, 14):
        pytest.skip("from Python 3.14 on such a thread waits, and is not ended")
    done = subprocess.run(
        [sys.executable, "-c", ENDING.replace("ENTRY", entry)], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert done.stdout == "all done\n"
    assert done.returncode == (2 if entry == "program" else -signal.SIGABRT), done.stderr
    assert (done.stderr == "") == (entry == "program")


ENDED = """
import atexit, sys, threading, time
import screening.cli

def main(arguments):
    sys.stdout.write("begun ")
    atexit.register(sys.stdout.write, "ended")
    threading.Thread(target=lambda: (time.sleep(0.3), sys.stdout.write("joined "))).start()
    sys.exit(3)

screening.cli.main = main
screening.cli.program([])
"""


def test_what_waits_for_the_end_of_the_process_is_done() -> None:
    done = subprocess.run([sys.executable, "-c", ENDED], capture_output=True, text=True, check=False, cwd=PROJECT)
    assert (done.stdout, done.stderr, done.returncode) == ("begun joined ended", "", 3)
