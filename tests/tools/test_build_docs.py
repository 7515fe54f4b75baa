"""tools/build_docs.py: the pages of the site, and the reference of settings."""

import dataclasses
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

from refl.config import RunConfig
from reward_core.training import TrainingConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """The script, writing to a temporary folder."""
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "tools/build_docs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_docs"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.BUILD = tmp_path_factory.mktemp("site") / "docs"
    module.copy_pages()
    module.write_reference()
    yield module
    del sys.modules["build_docs"]


def test_every_page_of_the_navigation_is_written(builder):
    nav = str(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    pages = re.findall(r"[\w/.-]+\.md", nav)
    assert len(pages) > 25
    assert [page for page in pages if not (builder.BUILD / page).is_file()] == []


def test_every_page_of_docs_is_in_the_navigation(builder):
    nav = (ROOT / "zensical.toml").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")]
    assert [page for page in pages if f'"{page}"' not in nav] == []


def test_links_between_pages_lead_to_files(builder):
    for page in builder.BUILD.rglob("*.md"):
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s#]+)", prose):
            assert re.match(r"[a-z]+:", target) or (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize(
    ("module", "config"),
    [("refl.config.sections", RunConfig), ("reward_core.training.config", TrainingConfig)],
)
def test_every_field_of_a_config_is_a_row_with_its_meaning(builder, module, config):
    settings = builder.read_settings(module, config.__name__)
    assert [setting.name for setting in settings] == [field.name for field in dataclasses.fields(config)]
    assert [setting.name for setting in settings if not setting.meaning] == []


def test_a_config_that_does_not_exist_is_an_error(builder):
    with pytest.raises(ValueError, match=r"Cannot document refl\.config\.sections\.NoConfig"):
        builder.read_settings("refl.config.sections", "NoConfig")
