"""The command as a process: exit codes, and which errors keep their traceback."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydfkd import __version__
from raydfkd.cli.main import app
from raydfkd.errors import RunFailedError, RunStoppedError


def start(*arguments: str, prepare: str = "") -> subprocess.Popen[str]:
    code = f"import sys; sys.argv = {['raydfkd', *arguments]!r}\n{prepare}\nfrom raydfkd.cli.main import main\nmain()"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_version_and_help() -> None:
    assert finish(start("--version")) == (0, f"raydfkd {__version__}\n", "")
    code, out, _ = finish(start("--help"))
    assert code == 0
    for verb in (
        "demo",
        "run",
        "sweep",
        "status",
        "scale",
        "stop",
        "evaluate",
        "train-teacher",
        "doctor",
        "report",
        "export",
        "methods",
        "config",
    ):
        assert f"\n  {verb} " in out


def test_the_package_itself_can_be_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["raydfkd", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("raydfkd", run_name="__main__")  # what python -m does
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"raydfkd {__version__}\n"


def test_a_users_mistake_is_one_sentence(tmp_path: Path) -> None:
    code, out, err = finish(start("config", "check", str(tmp_path / "none.yaml")))
    assert (code, out) == (2, "")
    assert err == f"raydfkd: {tmp_path / 'none.yaml'} does not exist: give the path of a YAML file\n"


def test_a_bug_keeps_its_traceback() -> None:
    breaks = "import raydfkd.cli.config_reference as m\ndef broken(): raise AssertionError('ours')\nm.reference_text = broken"
    code, _, err = finish(start("config", "reference", prepare=breaks))
    assert code == 1
    assert "Traceback" in err
    assert "AssertionError: ours" in err


def test_a_failed_run_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise RunFailedError("the student worker died three times")

    monkeypatch.setattr("raydfkd.cli.config_reference.reference_text", fail)
    result = CliRunner().invoke(app, ["config", "reference"])
    assert result.exit_code == 1
    assert result.stderr == "raydfkd: the student worker died three times\n"


def test_a_run_that_was_stopped_in_order_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> str:
        raise RunStoppedError("the run was stopped at step 4 of 8; resume it with: raydfkd run RUN --resume")

    monkeypatch.setattr("raydfkd.cli.config_reference.reference_text", stop)
    result = CliRunner().invoke(app, ["config", "reference"])
    assert result.exit_code == 3
    assert result.stderr == "raydfkd: the run was stopped at step 4 of 8; resume it with: raydfkd run RUN --resume\n"


def start_waiting(then: str = "pass") -> subprocess.Popen[str]:
    waits = (
        # Under nohup, or in a script's background, a process starts with Ctrl-C ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import time, raydfkd.cli.config_reference as m\n"
        "def wait():\n    try: sys.stdout.write('waiting\\n'); sys.stdout.flush(); time.sleep(50)\n"
        f"    except KeyboardInterrupt: {then}; raise\n"
        "m.reference_text = wait"
    )
    process = start("config", "reference", prepare=waits)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    return process


@pytest.mark.parametrize(
    ("number", "expected", "by"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 3, "SIGTERM"), (signal.SIGHUP, 3, "SIGHUP")],
)
def test_an_interruption_says_how_to_go_on(number: signal.Signals, expected: int, by: str) -> None:
    process = start_waiting()
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == expected
    assert err == f"raydfkd: stopped by {by}; resume a run that had started with: raydfkd run --resume RUN\n"


def test_a_second_signal_ends_what_does_not_end_by_itself() -> None:
    process = start_waiting(then="sys.stdout.write('ending\\n'); sys.stdout.flush(); time.sleep(50)")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "ending\n"
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143


def test_an_interruption_may_know_better_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> str:
        error = KeyboardInterrupt()
        error.add_note("the run is finished; write its report with: raydfkd report RUN")
        raise error

    monkeypatch.setattr("raydfkd.cli.config_reference.reference_text", stop)
    result = CliRunner().invoke(app, ["config", "reference"])
    assert result.exit_code == 130
    assert result.stderr == "raydfkd: stopped by Ctrl-C; the run is finished; write its report with: raydfkd report RUN\n"
