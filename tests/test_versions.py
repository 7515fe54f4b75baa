"""The three packages go together: they require each other's same minor version."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

PACKAGES = Path(__file__).parents[1] / "packages"
FOLDERS = {"reward-core": "reward-core", "refl": "refl", "reward-benchmark": "benchmark"}


def project(name):
    return tomllib.loads((PACKAGES / FOLDERS[name] / "pyproject.toml").read_text())


def version(name):
    path = PACKAGES / FOLDERS[name] / project(name)["tool"]["hatch"]["version"]["path"]
    return Version(re.search(r'^__version__ = "(.+)"$', path.read_text(), re.MULTILINE)[1])


def own_requirements(name):
    """The requirements of a package that are packages of this repository, those of its extras too."""
    content = project(name)["project"]
    extras = content.get("optional-dependencies", {}).values()
    lines = [*content["dependencies"], *(line for lines in extras for line in lines)]
    return {need.name: need for need in map(Requirement, lines) if need.name in FOLDERS}


def test_the_packages_have_one_minor_version():
    assert len({version(name).release[:2] for name in FOLDERS}) == 1


@pytest.mark.parametrize(
    ("name", "needs"),
    [("reward-core", set()), ("refl", {"reward-core"}), ("reward-benchmark", {"reward-core", "refl"})],
)
def test_a_package_requires_the_same_minor_version_of_the_others(name, needs):
    found = own_requirements(name)
    assert set(found) == needs
    major, minor = version(name).release[:2]
    for need in found.values():
        accepted = need.specifier
        for patch in (0, 1, 99):
            assert accepted.contains(f"{major}.{minor}.{patch}"), need
        for other in (f"{major}.{minor + 1}.0", f"{major + 1}.0.0", f"{major - 1}.{minor}.0"):
            assert not accepted.contains(other), f"{name} accepts {need.name} {other}"


@pytest.mark.parametrize("name", FOLDERS)
def test_the_imported_package_is_the_one_of_its_pyproject(name):
    module = importlib.import_module(name.replace("-", "_"))
    assert Version(module.__version__) == version(name)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_python_versions_of_the_readme_are_those_of_the_package(name):
    readme = (PACKAGES.parent / "README.md").read_text()
    first, last = map(int, re.search(r"Python 3\.(\d+) to 3\.(\d+)\.", readme).groups())
    found = project(name)["project"]
    assert found["requires-python"] == f">=3.{first}"
    prefix = "Programming Language :: Python :: 3."
    stated = [line for line in found["classifiers"] if line.startswith(prefix)]
    assert stated == [f"{prefix}{minor}" for minor in range(first, last + 1)]
