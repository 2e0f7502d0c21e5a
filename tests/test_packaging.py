import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_oldest_versions_that_are_tested_are_those_that_are_promised():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = " ".join([*project["dependencies"], *project["optional-dependencies"]["test"]])
    promised = dict(re.findall(r"([\w-]+)>=([\d.]+)", required))
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "tests" / "lowest.txt").read_text(), re.MULTILINE))
    assert pinned.pop("jaxlib") == pinned["jax"]
    assert len(pinned) == 6
    for name, version in pinned.items():
        assert re.fullmatch(rf"{re.escape(promised[name])}(\.0)*", version), name
