"""Runs CI templates as shell steps in a folder, as the services' own runners do, as far as the templates ask for it.

Nothing of whet is replaced: the steps call the real commands. What a runner provides is stood in for: the checkout is a
folder that is there already, Python is the environment that the tests run in (so the steps in `skip`, which install
into a fresh one, are left out), caches are folders that stay from one run to the next.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SECONDS = 120


@dataclass
class Outcome:
    """code: of the job, 0 if all steps that count went well. steps: exit code and output of each, by name."""

    code: int = 0
    summary: str = ""
    steps: dict[str, tuple[int, str]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)  # artifacts: name -> path

    @property
    def output(self) -> str:
        return "\n".join(f"--- {name} ({code})\n{text}" for name, (code, text) in self.steps.items())


def load(path: Path) -> dict[str, Any]:
    """A template; YAML 1.1 reads GitHub's key `on` as true."""
    found = yaml.safe_load(path.read_text("utf-8"))
    return {("on" if key is True else key): value for key, value in found.items()}


def environment(folder: Path, **more: str) -> dict[str, str]:
    """What a runner's shell has: this environment's commands first, and nothing of the user's own."""
    kept = {k: v for k, v in os.environ.items() if k in ("LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")}
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home), "COLUMNS": "200",
            "CI": "true", **more}


def github(template: dict[str, Any], job: str, folder: Path, contexts: dict[str, Any], skip: tuple[str, ...] = (),
           **overrides: str) -> Outcome:
    """Run a job's steps. contexts: `github`, `runner`...; overrides: of the workflow's `env`."""
    found = Outcome()
    files = {name: folder / f".{name.lower()}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV")}
    steps: dict[str, Any] = {}
    known = {"steps": steps, **contexts}
    env = {k: _fill(v, known) for k, v in {**template.get("env", {}), **overrides}.items()}
    for i, step in enumerate(template["jobs"][job]["steps"]):
        name = step.get("name", f"step {i}")
        if name in skip or not _wanted(step.get("if", "success()"), known, found.code):
            continue
        if "uses" in step:
            if step["uses"].startswith("actions/upload-artifact@"):
                with_ = {k: _fill(v, known) for k, v in step["with"].items()}
                found.kept[with_["name"]] = with_["path"]
            continue
        for path in files.values():
            path.touch()
        files["GITHUB_OUTPUT"].write_text("")
        own = {k: _fill(v, known) for k, v in {**env, **step.get("env", {})}.items()}
        variables = environment(folder, **own, **{name: str(path) for name, path in files.items()})
        code, text = _bash(step["run"], folder, variables)
        found.steps[name] = (code, text)
        if "id" in step:
            lines = files["GITHUB_OUTPUT"].read_text().splitlines()
            steps[step["id"]] = {"outputs": dict(line.split("=", 1) for line in lines),
                                 "outcome": "failure" if code else "success"}
        if code and not step.get("continue-on-error"):
            found.code = found.code or code
    found.summary = files["GITHUB_STEP_SUMMARY"].read_text() if files["GITHUB_STEP_SUMMARY"].exists() else ""
    return found


def gitlab(template: dict[str, Any], job: str, folder: Path, skip: tuple[str, ...] = (), **variables: str) -> Outcome:
    """Run a job: its scripts as one, which ends with the first line that fails, then `after_script`, which runs always.
    skip: lines that begin with any of these."""
    found = Outcome()
    what = template[job]
    fixed = {**template.get("variables", {}), **what.get("variables", {}), **variables}
    given = {k: re.sub(r"\$CI_PROJECT_DIR\b", str(folder), str(v)) for k, v in fixed.items()}
    env = environment(folder, CI_PROJECT_DIR=str(folder), **given)
    lines = [*what.get("before_script", ()), *what["script"]]
    script = "\n".join(line for line in lines if not line.startswith(skip or ("\0",)))
    code, text = _bash(script, folder, env)
    found.steps["script"] = (code, text)
    status = "failed" if code else "success"
    after, more = _bash("set +e\n" + "\n".join(what.get("after_script", ())), folder, {**env, "CI_JOB_STATUS": status})
    found.steps["after_script"] = (after, more)
    allowed = what.get("allow_failure", False)
    tolerated = allowed is True or (isinstance(allowed, dict) and code in _list(allowed["exit_codes"]))
    found.code = 0 if tolerated else code
    found.kept = {path: path for path in what["artifacts"]["paths"]}
    return found


def _bash(script: str, folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """As both services run scripts: the first command that fails ends it, in a pipe as well."""
    done = subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script], cwd=folder, env=env,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False)
    return done.returncode, done.stdout


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _look(path: str, known: dict[str, Any]) -> Any:
    found: Any = known
    for part in path.strip().split("."):
        found = found.get(part, "") if isinstance(found, dict) else ""
    return found


def _fill(text: Any, known: dict[str, Any]) -> str:
    return re.sub(r"\$\{\{\s*([\w.-]+)\s*\}\}", lambda m: str(_look(m[1], known)), str(text))


def _wanted(condition: str, known: dict[str, Any], code: int) -> bool:
    """The conditions that the templates have: always(), success(), comparisons, joined by &&."""
    parts = [part.strip() for part in str(condition).split("&&")]
    asked = any(part in ("always()", "success()", "failure()") for part in parts)
    if not asked and code:
        return False
    for part in parts:
        if part == "always()":
            continue
        if part in ("success()", "failure()"):
            if bool(code) != (part == "failure()"):
                return False
            continue
        match = re.fullmatch(r"([\w.]+)\s*(==|!=)\s*'([^']*)'", part)
        assert match, f"a condition that this runner does not know: {part}"
        if (str(_look(match[1], known)) == match[3]) != (match[2] == "=="):
            return False
    return True
