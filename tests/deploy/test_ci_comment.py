"""The workflow that comments: it trusts nothing of the pull request. GitHub's interface is stood in for by a small
`gh`, which writes down what it is asked and answers from files; all else is the template's own shell."""

import json
import os
import stat
from pathlib import Path

import pytest

from deploy.ci_runner import Outcome, github, load

TEMPLATE = load(Path(__file__).parents[2] / "deploy" / "ci" / "github" / "whet-comment.yml")
SHA = "a" * 40
GH = """#!/bin/bash
printf '%s\\n' "$*" >> asked
case "$*" in
  *"/pulls "*) cat pulls ;;
  "run download"*) [ -f artifact ] && mkdir -p summary && cp artifact summary/summary.md ;;
  *"--paginate"*) cat comments ;;
  *) echo '{}' ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tools = tmp_path / "tools"
    tools.mkdir()
    gh = tools / "gh"
    gh.write_text(GH)
    gh.chmod(gh.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    (tmp_path / "pulls").write_text("7\n")
    (tmp_path / "comments").write_text("")
    (tmp_path / "artifact").write_text("# Gate\n\nP99 42 ms\n")
    return tmp_path


def run(folder: Path, branch: str = "faster") -> Outcome:
    event = {"id": "12", "html_url": "https://example.org/runs/12", "conclusion": "success", "head_sha": SHA,
             "head_branch": branch, "head_repository": {"owner": {"login": "someone"}, "id": "5"}}
    contexts = {"github": {"token": "t", "repository": "us/models", "event": {"workflow_run": event}}}
    return github(TEMPLATE, "comment", folder, contexts)


def test_a_first_comment_is_made(folder: Path) -> None:
    found = run(folder)
    assert found.code == 0, found.output
    asked = (folder / "asked").read_text()
    assert "api -X POST repos/us/models/issues/7/comments -F body=@comment.md" in asked
    assert f'select(.head.sha == "{SHA}")' in asked
    text = (folder / "comment.md").read_text()
    assert text.startswith("<!-- whet -->\n")
    assert "P99 42 ms" in text


def test_the_next_run_changes_the_comment(folder: Path) -> None:
    (folder / "comments").write_text("31\n44\n")
    found = run(folder)
    assert found.code == 0, found.output
    assert "api -X PATCH repos/us/models/issues/comments/31 -F body=@comment.md" in (folder / "asked").read_text()


def test_without_a_pull_request_nothing_is_said(folder: Path) -> None:
    (folder / "pulls").write_text("")
    found = run(folder)
    assert found.code == 0, found.output
    assert "comments" not in (folder / "asked").read_text()


def test_without_a_summary_the_conclusion_is_said(folder: Path) -> None:
    (folder / "artifact").unlink()
    found = run(folder)
    assert found.code == 0, found.output
    assert "ended with: success" in (folder / "comment.md").read_text()


def test_a_hostile_summary_is_text_alone(folder: Path) -> None:
    (folder / "artifact").write_bytes(
        b"@everyone <img src=x> ![x](https://evil.example/x) [click](https://evil.example)\xff\n" + b"x" * 100_000)
    found = run(folder)
    assert found.code == 0, found.output
    text = (folder / "comment.md").read_text("utf-8").split("run.\n", 1)[1]
    assert len(text) < 61_000, "GitHub takes no more than 65,536 characters"
    for bad in ("<", "![", "](", "://", "@e"):
        assert bad not in text


def test_names_from_outside_are_data(folder: Path) -> None:
    """A branch's name may hold what a shell would run: it goes in by the environment, never into the script."""
    found = run(folder, branch='x";touch hacked;$(touch hacked)`touch hacked`')
    assert found.code == 0, found.output
    assert not (folder / "hacked").exists()
    for job in TEMPLATE["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step["run"]


def test_it_runs_nothing_of_the_pull_request() -> None:
    (job,) = TEMPLATE["jobs"].values()
    assert TEMPLATE["permissions"] == {}
    assert job["permissions"] == {"actions": "read", "pull-requests": "write"}
    assert not any("uses" in step for step in job["steps"]), "no checkout"
    assert list(TEMPLATE["on"]) == ["workflow_run"]
    assert json.dumps(TEMPLATE).count("secrets.") == 0
