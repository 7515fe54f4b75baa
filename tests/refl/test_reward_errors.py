"""Errors in a user's reward function name its file and line."""

import importlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

from refl.errors import RewardError
from refl.rewards.image_rewards import ImageReward, import_function

CODE = """
import json


def helper(prompt):
    return 1 / prompt.count("?")


def score(images, prompts):
    return [helper(prompt) for prompt in prompts]


def parse(images, prompts):
    return [json.loads(prompt) for prompt in prompts]
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "failing_rewards.py").write_text(CODE)
    (tmp_path / "broken_rewards.py").write_text("limit = 3\nlimit / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    for name in ("failing_rewards", "broken_rewards"):
        sys.modules.pop(name, None)
    return tmp_path / "failing_rewards.py"


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [("score", 6, "ZeroDivisionError: division by zero"), ("parse", 14, "JSONDecodeError: Expecting value")],
)
def test_the_innermost_line_of_the_users_file_is_named(module, name, line, reason):
    reward = ImageReward(name, import_function(f"failing_rewards:{name}"))
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(RewardError, match=reason) as caught:
        reward.score([image], ["a red circle"])
    assert str(caught.value).endswith(f"({module}, line {line})")
    assert isinstance(caught.value.__cause__, (ZeroDivisionError, json.JSONDecodeError))


def test_a_failing_import_names_its_line(module):
    with pytest.raises(RewardError) as caught:
        import_function("broken_rewards:score")
    assert f"ZeroDivisionError: division by zero ({module.with_name('broken_rewards.py')}, line 2)." in str(
        caught.value
    )


def test_a_module_that_is_missing_has_no_line(module):
    with pytest.raises(RewardError) as caught:
        import_function("absent_rewards:score")
    assert "ModuleNotFoundError: No module named 'absent_rewards'. Name it as" in str(caught.value)


def test_a_line_of_a_library_elsewhere_is_not_the_users(module, tmp_path, monkeypatch):
    """As libraries of the user (pip install --user) or of the system beside an environment."""
    library = tmp_path / "home/lib/python3/dist-packages"
    library.mkdir(parents=True)
    (library / "far_library.py").write_text("def fail():\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(library)
    (module.parent / "calling_rewards.py").write_text(
        "import far_library\n\n\ndef score(images, prompts):\n    return far_library.fail()\n"
    )
    reward = ImageReward("score", import_function("calling_rewards:score"))
    with pytest.raises(RewardError) as caught:
        reward.score([Image.new("RGB", (4, 4))], ["a red circle"])
    assert str(caught.value).endswith(f"({module.with_name('calling_rewards.py')}, line 5)")
