"""Every script of tools/ prints its help."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = [
    path
    for path in sorted(Path(__file__).parents[2].glob("tools/*.py"))
    if "ArgumentParser(" in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_print_their_help(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(str(script.parent))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    assert "usage: " in capsys.readouterr().out
