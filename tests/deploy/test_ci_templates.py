"""The CI templates: their structure, and what they do, run step by step as a service would run them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from deploy.ci_runner import Outcome, github, gitlab, load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "ci"
GITHUB = load(FOLDER / "github" / "whet.yml")
GITLAB = load(FOLDER / "gitlab" / "whet.gitlab-ci.yml")
FILES = sorted(FOLDER.rglob("*.yml"))


# --- structure ---

@pytest.mark.parametrize("path", sorted((FOLDER / "github").glob("*.yml")), ids=lambda p: p.name)
def test_every_action_is_pinned_by_its_commit(path: Path) -> None:
    for line in re.findall(r"^\s*-?\s*uses:.*$", path.read_text("utf-8"), re.MULTILINE):
        assert re.search(r"uses: [\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$", line), line


def test_github_gives_no_more_than_reading_and_no_secrets() -> None:
    assert GITHUB["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in GITHUB["on"]
    text = (FOLDER / "github" / "whet.yml").read_text("utf-8")
    assert "secrets." not in text
    assert GITHUB["concurrency"]["group"]
    for job in GITHUB["jobs"].values():
        assert job["timeout-minutes"] <= 60
        checkout = next(s for s in job["steps"] if s.get("uses", "").startswith("actions/checkout@"))
        assert checkout["with"]["persist-credentials"] is False
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "what comes from outside goes in by the environment"


def test_the_comment_waits_for_this_workflow() -> None:
    comment = load(FOLDER / "github" / "whet-comment.yml")
    assert comment["on"]["workflow_run"]["workflows"] == [GITHUB["name"]]


def test_gitlab_needs_no_secrets_and_warns_of_what_is_undecided() -> None:
    job = GITLAB["whet"]
    assert job["allow_failure"] == {"exit_codes": [3]}
    assert job["artifacts"]["when"] == "always"
    assert not re.search(r"TOKEN|PASSWORD|SECRET", (FOLDER / "gitlab" / "whet.gitlab-ci.yml").read_text("utf-8"))


@pytest.mark.parametrize("template", [GITHUB["jobs"]["whet"]["steps"], GITLAB["whet"]["before_script"]],
                         ids=["github", "gitlab"])
def test_versions_are_locked(template: Any) -> None:
    text = yaml.safe_dump(template, width=1000)
    assert "pip install --require-hashes -r requirements.txt" in text
    assert 'pip install --no-deps "$WHET"' in text.replace('\\"', '"')
    assert "whet lock --check" in text


@pytest.mark.parametrize(("schema", "path"), [
    *(("vendor.github-workflows", p) for p in sorted((FOLDER / "github").glob("*.yml"))),
    ("vendor.gitlab-ci", FOLDER / "gitlab" / "whet.gitlab-ci.yml")], ids=lambda x: getattr(x, "name", x))
def test_they_keep_the_services_schemas(schema: str, path: Path) -> None:
    """The schemas are those of SchemaStore and GitLab, as check-jsonschema packages them."""
    command = pytest.importorskip("check_jsonschema", reason="needs check-jsonschema (whet[test])")
    with pytest.raises(SystemExit) as e:
        command.main(["--builtin-schema", schema, str(path)])
    assert e.value.code == 0


# --- what they do: the steps are run, whet's commands are the real ones ---

SHORT = "0.1"
CONTEXT = {"github": {"event_name": "pull_request", "run_id": "1", "run_attempt": "1"},
           "runner": {"os": "Linux", "arch": "X64"}}
# What a fresh runner installs is the environment of these tests; a pip line would change it.
FRESH = ("Install",)
FRESH_LINES = ("python -m venv", "source .venv", "python -m pip")


def checkout(folder: Path) -> Path:
    """A repository as docs/ci.md asks for it, with a model of two layers."""
    rng = np.random.default_rng(0)
    w = numpy_helper.from_array((rng.standard_normal((16, 32)) / 4).astype(np.float32), "w")
    v = numpy_helper.from_array((rng.standard_normal((32, 4)) / 6).astype(np.float32), "v")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("MatMul", ["r", "v"], ["y"])]
    value = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "tiny", [value("x", 4, 16)], [value("y", 4, 4)], [w, v])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "calib.npz", x=rng.standard_normal((64, 16)).astype(np.float32))
    (folder / "whet.yaml").write_text("builds:\n  tiny: {model: model.onnx, output: model.plan, precision: [int8], "
                                      "calib: calib.npz, opt_level: 0}\n")
    (folder / "gate.yaml").write_text("p99: 10s\nplan_size: 10MB\n")
    from whet.lock import here

    (folder / "whet.lock").write_bytes(here().encode())
    return folder


def on_github(folder: Path, skip: tuple[str, ...] = (), **env: str) -> Outcome:
    (folder / ".github_step_summary").unlink(missing_ok=True)
    contexts = {**CONTEXT, "github": {**CONTEXT["github"], "workspace": str(folder)}}
    return github(GITHUB, "whet", folder, contexts, (*FRESH, *skip), SECONDS_OF_TIMING=SHORT,
                  BACKENDS="whet", **env)


BUILT = ("Read the locked version of Python", "Check the lock", "Build and calibrate", "Measure")


def slower(folder: Path, times: float) -> None:
    """Put a past into the store in which everything took `times` as long: what is measured now is no regression."""
    import msgspec

    from whet.measure import record, stats
    from whet.store import Store

    (new,) = [r for r in record.read(folder / "out" / "measurements.json") if r.backend == "whet"]
    old = []
    for day in range(1, 9):
        factor = times * (1 + 0.002 * (day % 3))
        samples = [s * factor for s in new.latency.samples]
        plan = msgspec.structs.replace(new.plan, bytes=2 * new.plan.bytes)
        memory = msgspec.structs.replace(new.memory, peak_bytes=2 * new.memory.peak_bytes)
        old.append(msgspec.structs.replace(
            new, date=f"2026-01-{day:02d}T00:00:00+00:00", latency=stats.latency(samples), plan=plan, memory=memory,
            throughput=new.throughput / factor))
    with Store(folder / ".whet" / "measurements.db") as store:
        store.add(old)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The first run in a new repository: nothing was measured before."""
    folder = checkout(tmp_path_factory.mktemp("repository"))
    return folder, on_github(folder)


def again(first: tuple[Path, Outcome], folder: Path) -> Path:
    """What the first run left, in another folder: a next run goes on from its caches and its plan."""
    for name in ("out", ".whet"):
        shutil.copytree(first[0] / name, folder / name)
    for name in ("summary.md", "forecast.md", "forecast.html", "forecast.json"):
        (folder / "out" / name).unlink(missing_ok=True)
    return checkout(folder)


def test_a_first_run_is_undecided_and_passes_with_a_warning(first: tuple[Path, Outcome]) -> None:
    folder, found = first
    assert found.code == 0, found.output
    assert "::warning::The gate is undecided" in found.output
    assert "5 are needed to say anything" in found.summary
    assert "orecast" in found.summary
    assert found.kept == {"whet": "out", "whet-summary": "out/summary.md"}
    for name in ("model.plan", "measurements.json", "summary.md", "gate/gate.html", "gate/gate.json"):
        assert (folder / "out" / name).is_file(), name
    assert (folder / "out" / "summary.md").read_text() == found.summary
    (lock,) = {r["lock"] for r in json.loads((folder / "out" / "measurements.json").read_bytes())}
    assert re.fullmatch("[0-9a-f]{64}", lock), "records carry the lock that was checked"


def test_held_with_a_history_and_a_forecast(first: tuple[Path, Outcome], tmp_path: Path) -> None:
    folder = again(first, tmp_path)
    slower(folder, 20.0)
    found = on_github(folder, skip=BUILT)
    assert found.code == 0, found.output
    assert "The gate held." in found.output
    assert "meets the threshold" in found.summary


def test_an_objective_that_is_not_held_fails_the_job_after_the_summary(first: tuple[Path, Outcome],
                                                                       tmp_path: Path) -> None:
    folder = again(first, tmp_path)
    (folder / "gate.yaml").write_text("plan_size: 1B\n")
    found = on_github(folder, skip=(*BUILT, "Forecast"))
    assert found.code == 1, found.output
    assert "::error::The gate did not hold." in found.output
    assert "not held" in found.summary


def test_undecided_fails_where_it_is_asked_to(first: tuple[Path, Outcome], tmp_path: Path) -> None:
    found = on_github(again(first, tmp_path), skip=(*BUILT, "Forecast"), UNDECIDED="fail")
    assert found.code == 3, found.output


def test_a_build_that_fails_is_in_the_summary(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    (folder / "model.onnx").write_bytes(b"not a model")
    found = on_github(folder, skip=("Check the lock",))
    assert found.code == 2, found.output
    assert "Nothing was judged" in found.summary
    assert "model.onnx" in found.summary
    assert "Gate" not in found.steps
    assert "Verdict" not in found.steps
    assert found.kept["whet-summary"] == "out/summary.md"


def test_versions_that_differ_end_the_job(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    lock = json.loads((folder / "whet.lock").read_bytes())
    lock["packages"]["numpy"] = "1.0"
    (folder / "whet.lock").write_text(json.dumps(lock))
    found = on_github(folder)
    assert found.code == 1
    assert "pip install 'numpy==1.0'" in found.output
    assert "Build and calibrate" not in found.steps


def on_gitlab(folder: Path, skip: tuple[str, ...] = (), **variables: str) -> Outcome:
    return gitlab(GITLAB, "whet", folder, (*FRESH_LINES, *skip), SECONDS_OF_TIMING=SHORT,
                  BACKENDS="whet", **variables)


BUILT_LINES = ("whet build", "whet bench", "whet lock", "whet doctor")


def test_both_services_run_the_same_commands() -> None:
    """So what a step does on one of them it does on the other."""
    steps = [line for s in GITHUB["jobs"]["whet"]["steps"] for line in _commands(s.get("run", ""))]
    lines = [line for s in (*GITLAB["whet"]["before_script"], *GITLAB["whet"]["script"]) for line in _commands(s)]
    assert steps == lines


def _commands(script: str) -> list[str]:
    """The calls of whet in a script, their lines joined."""
    joined = re.sub(r"\\?\n\s*(?=--|tee)", " ", script)
    found = [re.split(r" \|\| | 2>&1", line.strip())[0] for line in joined.splitlines()]
    return [" ".join(line.split()) for line in found if line.startswith("whet ")]


def test_gitlab_warns_of_what_is_undecided(first: tuple[Path, Outcome], tmp_path: Path) -> None:
    folder = again(first, tmp_path)
    found = on_gitlab(folder, skip=(*BUILT_LINES, "whet forecast"))
    assert found.steps["script"][0] == 3, found.output
    assert found.code == 0, "undecided is a warning"
    assert "5 are needed to say anything" in (folder / "out" / "summary.md").read_text()
    assert (folder / "out" / "gate" / "gate.html").is_file()


@pytest.mark.parametrize(("objective", "past", "code"), [("10MB", 20.0, 0), ("1B", 0.0, 1)], ids=["held", "not held"])
def test_gitlab_takes_the_gates_verdict(first: tuple[Path, Outcome], tmp_path: Path, objective: str, past: float,
                                        code: int) -> None:
    folder = again(first, tmp_path)
    (folder / "gate.yaml").write_text(f"plan_size: {objective}\n")
    if past:
        slower(folder, past)
    found = on_gitlab(folder, skip=BUILT_LINES if past else (*BUILT_LINES, "whet forecast"))
    assert found.code == code, found.output
    assert not past or "orecast" in (folder / "out" / "summary.md").read_text()


def test_gitlab_tells_of_a_build_that_fails(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    (folder / "model.onnx").write_bytes(b"not a model")
    found = on_gitlab(folder, skip=("whet lock", "whet doctor"))
    assert found.code == 2, found.output
    assert "model.onnx" in (folder / "out" / "summary.md").read_text()
