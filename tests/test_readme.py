"""What the README promises is there."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def test_it_has_the_two_set_up_commands() -> None:
    assert "    pip install . && whet demo\n" in README
    (test,) = re.findall(r'^    pip install "\.\[test\]" && (.*)$', README, re.MULTILINE)
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "\n" + test.replace(" && ", "\n") + "\n" in ci, "a line each, one after the other"


def test_the_extras_that_it_names_exist() -> None:
    named = {e for group in re.findall(r"\.\[([a-z,]+)\]", README) for e in group.split(",")}
    assert named
    assert named <= set(EXTRAS)


@pytest.mark.parametrize("page", ["README.md", "docs/internals.md", "docs/plan-file.md", "docs/measuring.md",
                                  "docs/caches.md", "docs/store.md", "docs/roi.md", "docs/fleets.md",
                                  "docs/comparing.md", "docs/lock.md", "docs/ci.md",
                                  "docs/documents.md", "docs/configuration.md"])
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text("utf-8")):
        if not link.startswith("http"):
            assert (folder / link).exists(), link


def test_the_python_in_it_parses() -> None:
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        compile(block, "README.md", "exec")
