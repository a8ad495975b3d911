"""The container file, as far as it can be tested where no container can be built: what it copies is there, what it
installs is locked and fits the project, and what it runs exists. The build of the image itself is not run here."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from whet.cli import doctor
from whet.errors import InputError

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "container" / "Dockerfile"
REQUIREMENTS = ROOT / "deploy" / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CPU_EXTRAS = ("onnxruntime", "store", "sign", "images")
EXTRAS = {"cpu": CPU_EXTRAS, "cuda": (*CPU_EXTRAS, "cuda")}


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments) of the container file; comments away, continued lines joined."""
    lines = [line for line in FILE.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(word.upper(), rest.strip()) for word, _, rest in (s.strip().partition(" ") for s in joined.splitlines())
            if word]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for word, rest in instructions():
        if word == "FROM":
            current = found.setdefault(rest.split(" AS ")[1], [(word, rest)])
        elif found:
            current.append((word, rest))
    return found


def locked(name: str) -> dict[str, str]:
    """name -> version of a file of requirements, each with a hash at least."""
    text = (REQUIREMENTS / f"{name}.txt").read_text("utf-8")
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text,
                       re.MULTILINE)
    assert len(found) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)), "a requirement without a hash"
    return {canonicalize_name(package): version for package, version, _ in found}


def test_both_targets_are_there_and_every_stage_is_known() -> None:
    found = stages()
    assert {"cpu", "cuda"} <= set(found)
    for name, (first, *rest) in found.items():
        base = first[1].split(" AS ")[0]
        assert base in found or base == "python:${PYTHON_VERSION}-slim-bookworm${BASE_DIGEST}", name
        for word, text in rest:
            if word == "COPY" and "--from=" in text:
                assert re.findall(r"--from=(\S+)", text)[0] in found, text


def test_every_file_that_is_copied_is_there_and_let_in() -> None:
    let_in = {line[1:] for line in FILE.with_name("Dockerfile.dockerignore").read_text("utf-8").splitlines()
              if line.startswith("!")}
    copied = [source for word, rest in instructions() if word == "COPY" and "--from=" not in rest
              for source in shlex.split(rest)[:-1]]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source == path or source.startswith(f"{path}/") for path in let_in), f"{source} is ignored"


def test_it_does_not_run_as_root() -> None:
    for name in ("cpu", "cuda"):
        stage = stages()[name]
        assert stage[0][1].startswith("run AS ")
        assert not any(word == "USER" for word, _ in stage)
    assert [rest for word, rest in stages()["run"] if word == "USER"] == ["whet"]


def test_packages_are_installed_by_hash_alone() -> None:
    runs = [part.strip() for word, rest in instructions() if word == "RUN" for part in rest.split("&&")]
    for line in (line for line in runs if "pip install" in line):
        assert "--require-hashes" in line or ("--no-deps --no-index" in line and line.endswith(" whet")), line
    assert any("whet lock -o" in line for line in runs)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_what_is_locked_is_what_the_project_asks_for(target: str) -> None:
    asked = [*PROJECT["dependencies"], *(r for e in EXTRAS[target] for r in PROJECT["optional-dependencies"][e])]
    versions = locked(target)
    for requirement in map(Requirement, asked):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in deploy/requirements/{target}.txt"
        assert requirement.specifier.contains(version), f"{requirement}: {version} is locked"


def test_the_wheel_is_built_by_what_is_locked() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    assert {canonicalize_name(Requirement(r).name) for r in build} <= set(locked("build"))


def test_cpu_and_cuda_have_the_same_versions() -> None:
    cpu, cuda = locked("cpu"), locked("cuda")
    assert {name: cuda.get(name) for name in cpu} == cpu


def test_the_health_check_says_whether_the_target_is_usable(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cpu", "cuda"):
        (check,) = [rest for word, rest in stages()[name] if word == "HEALTHCHECK"]
        assert json.loads(check[check.index("["):]) == ["whet", "doctor", "--require", name]
    found = doctor.examine()
    assert doctor.lacks(found, "cpu") == ""
    assert doctor.run(as_json=True, require="cpu") == 0
    gone = {**found, "packages": {**found["packages"], "numpy": None}}
    assert "numpy" in doctor.lacks(gone, "cpu")
    old = {**found, "cpu": {**found["cpu"], "kernels": {"isa": None, "why": "too old"}}}
    assert doctor.lacks(old, "cpu") == "too old"
    usable = {"devices": [], "missing": [], "why": "no GPU", "do": "add one"}
    none = {**found, "gpu": {**found["gpu"], "usable": usable}}
    assert "no GPU" in doctor.lacks(none, "cuda")
    with pytest.raises(InputError, match="tpu"):
        doctor.run(as_json=True, require="tpu")
    capsys.readouterr()
