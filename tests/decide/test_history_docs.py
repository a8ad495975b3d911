"""docs/back-tests.md does what it says."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "back-tests.md").read_text("utf-8")


def test_the_python_on_the_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    block, = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "docs/back-tests.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["5 -0.18 True", "8.4 True", "True", "True"]
