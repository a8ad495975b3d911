"""`whet doc` and `whet build --config` as a person uses them; and what their pages show works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner, Result

from documented import model
from whet.cli.main import app
from whet.config.meanings import MEANINGS
from whet.doc.check import schema
from whet.errors import InputError, WhetError
from whet.plan import Plan

DOCS = Path(__file__).parents[2] / "docs"
QUICK = {"build": ["--opt-level", "0", "--threads", "1"], "bench": ["--seconds", "0.02", "--no-memory", "--backends",
                                                                   "whet"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Path:
    found = tmp_path_factory.mktemp("docs")
    model(found / "model.onnx")
    return found


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def run(*args: object) -> Result:
    return CliRunner().invoke(app, list(map(str, args)))


def refused(*args: object) -> WhetError:
    result = run(*args)
    assert isinstance(result.exception, WhetError), result.output
    return result.exception


def commands(page: str) -> list[list[str]]:
    """The commands of a page, quickened."""
    text = (DOCS / page).read_text("utf-8")
    found = [shlex.split(line) for line in re.findall(r"^    whet (.*)$", text, re.MULTILINE)]
    return [[*c, *([] if "--config" in c else QUICK.get(c[0], []))] for c in found]


def test_what_the_page_on_documents_shows_works(folder: Path) -> None:
    for command in commands("documents.md"):
        result = run(*command)
        assert result.exit_code == 0, (command, result.output, result.exception)
    text = (DOCS / "documents.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(block, "docs/documents.md", "exec"), {})
    assert "measurement 1" in (folder / "model.md").read_text("utf-8")
    assert "base_model: org/name" in (folder / "README.md").read_text("utf-8")


def test_what_the_page_on_configurations_shows_works(folder: Path) -> None:
    text = (DOCS / "configuration.md").read_text("utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (folder / "whet.yaml").write_text(shown.replace("threads: 1\n", "threads: 1\n  opt_level: 0\n"))
    for command in commands("configuration.md"):
        result = run(*command)
        assert result.exit_code == 0, (command, result.output, result.exception)
    assert (folder / "dynamic.plan").exists()
    listed = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", text, re.MULTILINE)
    assert listed == [(name, meaning[0]) for name, meaning in MEANINGS.items()]


@pytest.fixture
def plan(folder: Path) -> Path:
    if not (folder / "p.plan").exists():
        assert run("build", "model.onnx", "-o", "p.plan", *QUICK["build"]).exit_code == 0
    return Path("p.plan")


def test_a_changed_document_fails_with_field_and_line(plan: Path, folder: Path) -> None:
    assert run("doc", plan, "-o", "d.md", "--lang", "zh").exit_code == 0
    assert run("doc", "--check", "d.md", "--plan", plan).exit_code == 0
    text = (folder / "d.md").read_text("utf-8")
    (folder / "d.md").write_text(text.replace("| `threads` | `1` |", "| `threads` | `8` |"), "utf-8")
    result = run("doc", "--check", "d.md", "--plan", plan, "--json", "check.json")
    assert result.exit_code == 1
    line = next(i for i, row in enumerate(text.split("\n"), 1) if row.startswith("| `threads`"))
    assert f"line {line}, configuration: `threads`, 数值: documented '`8`', it is '`1`'" in result.output
    assert "edited by hand: configuration (zh)" in result.output
    found = json.loads((folder / "check.json").read_text())
    jsonschema.validate(found, schema())
    assert (found["state"], found["drifts"][0]["line"]) == ("not held", line)
    assert "edited by hand" in refused("doc", "--update", "d.md", "--plan", plan).what
    assert run("doc", "--update", "d.md", "--plan", plan, "--force").exit_code == 0
    assert (folder / "d.md").read_text("utf-8") == text


def test_another_plan_is_not_the_documented_one(plan: Path, folder: Path) -> None:
    assert run("doc", plan, "-o", "first.md").exit_code == 0
    assert run("build", "model.onnx", "-o", "other.plan", "--opt-level", "0", "--threads", "2").exit_code == 0
    result = run("doc", "--check", "first.md", "--plan", "other.plan")
    assert result.exit_code == 1
    for field in ("`threads`", "`plan.hash`", "reproduction: command", "node plan"):
        assert field in result.output


def test_what_somebody_wrote_is_not_written_over(plan: Path, folder: Path) -> None:
    (folder / "MINE.md").write_text("# Mine\n")
    for option in ("-o", "--card"):
        assert "--update" in refused("doc", plan, option, "MINE.md").do
    assert run("doc", "--update", "MINE.md", "--plan", plan).exit_code == 0
    assert (folder / "MINE.md").read_text("utf-8").startswith("# Mine\n")
    assert "that whet did not write" in refused("doc", plan, "-o", "MINE.md").what
    assert run("doc", plan, "-o", "own.md").exit_code == run("doc", plan, "-o", "own.md", "--lang", "zh").exit_code == 0


def test_bad_input_is_told(plan: Path, folder: Path) -> None:
    (folder / "none.json").write_text("[]")
    assert "none of the records is of this plan" in refused("doc", plan, "--records", "none.json").what
    assert "twice" in refused("doc", plan, "--plan", plan).what
    assert "nothing to document" in refused("doc").what
    assert "for a model card" in refused("doc", plan, "--task", "x").what
    assert "no texts in 'xx'" in refused("doc", plan, "--lang", "xx").what
    assert refused("doc", "none.plan").exit_code == 2
    assert refused("doc", "--check", "none.md", "--plan", plan).exit_code == 2
    assert "no record of a build" in refused("doc", "--config", "whet.yaml", "--yaml", "x.yaml").what


def test_options_beside_a_configuration_win_and_are_told(folder: Path) -> None:
    (folder / "c.yaml").write_text("builds:\n  one:\n    model: model.onnx\n    opt_level: 0\n    threads: 2\n"
                                   "    output: c.plan\n")
    result = run("build", "--config", "c.yaml", "--threads", "1", "-o", "d.plan")
    assert result.exit_code == 0, result.output
    assert "threads: 1 is taken, not 2 (c.yaml, line 5)" in result.output
    assert "output: d.plan is taken, not c.plan (c.yaml, line 6)" in result.output
    assert Plan.open(folder / "d.plan").summary()["threads"] == 1
    (folder / "two.yaml").write_text("builds: {a: {model: a.onnx}, b: {model: b.onnx}}")
    assert "none is named" in refused("build", "--config", "two.yaml").what
    assert "did you mean 'b'" not in refused("build", "--config", "two.yaml", "zzz").do
    assert isinstance(refused("build", "model.onnx"), InputError)


def test_the_front_matter_of_a_card_is_yaml(plan: Path, folder: Path) -> None:
    assert run("doc", plan, "--card", "CARD.md").exit_code == 0
    front = yaml.safe_load((folder / "CARD.md").read_text("utf-8").split("---\n")[1])
    assert set(front) == {"library_name", "tags", "whet"}
    (folder / "CARD.md").write_text((folder / "CARD.md").read_text("utf-8").replace("- cpu\n", "- gpu\n"), "utf-8")
    assert run("doc", "--check", "CARD.md", "--plan", plan).exit_code == 1
