"""What the commands print on stderr, on a terminal and elsewhere, and what other libraries do not."""

import logging
import os
import re
import subprocess
import sys
from importlib import import_module

import pytest

MAINS = {"reward-core": "reward_core.cli", "reward-benchmark": "reward_benchmark.cli"}
# A command that ends with an error at once.
FAILING = {
    "reward-core": ["sort", "no-such-folder", "--into", "best,rest", "--top", "1"],
    "reward-benchmark": ["report", "no-such-folder"],
}


@pytest.fixture
def on_terminal(monkeypatch):
    """on_terminal(action): what the action prints on stderr while that is a terminal of 60 columns."""
    pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX's")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)

    def on_terminal(action):
        controller, descriptor = pty.openpty()
        os.set_blocking(controller, False)
        with open(descriptor, "w", buffering=1) as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            action()
            output = os.read(controller, 1 << 16).decode()
        os.close(controller)
        return output.replace("\r\n", "\n")

    return on_terminal


def without_escapes(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("name", MAINS)
def test_an_error_is_a_line_with_the_name_of_the_command(name, capsys):
    main = import_module(MAINS[name]).main
    for _ in range(2):  # and only one line when the command runs again in this process
        assert main(FAILING[name]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith(f"{name}: ")
        assert "no-such-folder" in output.err
        assert output.err.count("\n") == 1


@pytest.mark.parametrize("name", MAINS)
def test_an_error_on_a_terminal_has_its_level_and_is_wrapped(name, on_terminal, capsys):
    main = import_module(MAINS[name]).main
    lines = without_escapes(on_terminal(lambda: main(FAILING[name]))).splitlines()
    assert lines[0].startswith("ERROR    ")
    assert "no-such-folder" in lines[0]
    assert all(len(line) <= 60 for line in lines)
    assert capsys.readouterr().out == ""


def test_a_message_beside_a_progress_bar_has_a_line_of_its_own(on_terminal):
    from reward_benchmark.cli import main
    from reward_core.runs.progress import bar

    def command_with_a_bar():
        with bar() as shown:
            shown.add_task("images", total=3)
            main(FAILING["reward-benchmark"])

    output = on_terminal(command_with_a_bar)
    assert "images" in output
    lines = re.split(r"[\r\n]+", without_escapes(output.replace("\x1b[2K", "\n")))  # that clears a line
    (line,) = [line for line in lines if "no-such-folder" in line]
    assert line.startswith("ERROR    ")
    assert "images" not in line


@pytest.mark.slow
def test_other_libraries_log_errors_only_during_a_command_and_a_users_own_level_counts():
    script = """
from reward_core.printing.logger import command_logging
with command_logging("reward-core"):
    from huggingface_hub.utils import are_progress_bars_disabled, logging as hub
    from transformers.utils import logging as transformers
print(hub.get_verbosity(), transformers.get_verbosity(), are_progress_bars_disabled())
"""
    names = ("HF_HUB_VERBOSITY", "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    environment["TRANSFORMERS_VERBOSITY"] = "info"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("40 20 True\n", "")


def test_a_command_leaves_logging_and_the_environment_as_they_were(capsys):
    logger = logging.getLogger("reward_core")
    before = logger.handlers[:], logger.level, logger.propagate, dict(os.environ)
    for name in MAINS:
        import_module(MAINS[name]).main(FAILING[name])
    assert (logger.handlers, logger.level, logger.propagate, dict(os.environ)) == before
    logger.warning("a message to nobody")
    assert "reward-core: " not in capsys.readouterr().err.splitlines()[-1]
