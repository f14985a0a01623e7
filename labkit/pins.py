"""What pyproject.toml asks for, and what of it is installed."""

from __future__ import annotations  # an older Python must come as far as being told that it is one

import importlib.metadata
import platform
import re
import sys

from .launch import ROOT


def pythons() -> tuple[int, int]:
    """(low, high): Python 3.low is the first that is allowed, 3.high the first that is not."""
    found = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"', _pyproject(), re.MULTILINE)
    if not found:
        raise ValueError(f"{ROOT / 'pyproject.toml'} does not say which Pythons are allowed")
    return int(found[1]), int(found[2])


def asked_for(extra: str = "") -> dict[str, str]:
    """Name and version of each package that the lab, or an extra of it, needs on this system."""
    import tomllib  # since Python 3.11

    project = tomllib.loads(_pyproject())["project"]
    here = {"sys_platform": sys.platform, "platform_machine": platform.machine()}
    asked = {}
    for line in project["optional-dependencies"][extra] if extra else project["dependencies"]:
        requirement, _, marker = line.partition(";")
        if all(here[name] == value for name, value in re.findall(r"(\w+) == '(\w+)'", marker)):
            name, version = requirement.strip().split("==")
            asked[name] = version
    return asked


def version(name: str) -> str | None:
    """The version that is installed, None without one; a CPU build (2.13.0+cpu) is the same version."""
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf8")
