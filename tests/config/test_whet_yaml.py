"""`whet.yaml`: what is in it, what is refused and where, and that a plan's own configuration builds the plan again."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import whet
from documented import model
from whet import data_file
from whet.cli import build as building
from whet.command import DEFAULTS, asked, build_command
from whet.config import Build, read, schema
from whet.config.builds import SCHEMA_FILE, generated
from whet.config.meanings import MEANINGS
from whet.config.reading import check
from whet.config.writing import exported
from whet.errors import InputError
from whet.plan import Plan
from whet.plan.built import of

FULL = """
schema: 1
defaults:
  model: models/m.onnx
  threads: 2
builds:
  small: {output: small.plan, precision: bf16}
  whole:
    output: out/whole.plan
    target: cuda:sm_90
    hardware_compat: same-cc
    precision: [int8, bf16]
    force_precision: true
    fp32_layers: [head]
    calib: data/train.npz
    calib_cache: calib.json
    calib_method: percentile:99.9
    calib_samples: 64
    preprocess: resize=256,crop=224
    activations: i8
    prepare: [equalize, bias]
    eval: samples.data:held_out
    metric: top1
    max_drop: 1
    report: report
    weights: int4
    weight_group: 64
    shapes: {mask: [1, 8], scalar: ""}
    profiles:
      - {x: 1x8..4x8..9x8, "in:0": {min: [1], opt: "2", max: [4]}}
    states: {past.*: present.*}
    timing_cache: whet.cache
    opt_level: 5
    threads: 4
    isa: avx2
    dump: dump
"""


def configuration(text: str, path: str = "sub/whet.yaml") -> Any:
    return check(data_file.read_yaml(text, path), Path(path))


def test_every_option_can_be_said() -> None:
    found = configuration(FULL)
    whole = found.builds["whole"]
    assert set(whole.__struct_fields__) == set(MEANINGS)
    assert not [f for f in MEANINGS if getattr(whole, f) == getattr(Build(), f)]
    assert whole.threads == 4
    assert found.builds["small"].threads == 2
    assert whole.allowed == {"int8", "bf16"}
    assert whole.profile_texts() == ["x:1x8..4x8..9x8,in:0:1..2..4"]
    assert whole.shape_texts() == ["mask:1x8", "scalar:"]
    assert found.where("whole", "threads") == "sub/whet.yaml, line 34"
    assert found.where("small", "threads") == "sub/whet.yaml, line 5"


def test_paths_are_counted_from_the_files_folder() -> None:
    whole = configuration(FULL).resolved("whole")
    assert (whole.model, whole.output, whole.calib) == ("sub/models/m.onnx", "sub/out/whole.plan", "sub/data/train.npz")
    assert whole.eval == "samples.data:held_out", "a function, not a file"
    assert configuration(FULL, "whet.yaml").resolved("whole").model == "models/m.onnx"


def test_the_command_line_has_the_same_options() -> None:
    flags = {building.RENAMED.get(p, p) for p in inspect.signature(building.command).parameters}
    flags -= {"context", "config", *building.BOUNDS, *building.PRECISIONS}
    flags -= {"store", "webhook", "notify_command"}  # whom to tell of a failure: a file of others' names no commands
    assert flags | {"precision"} == set(Build.__struct_fields__)
    for name, value in DEFAULTS.items():
        own = getattr(Build(), name)
        assert (list(own) if isinstance(own, tuple) else own) == value


def test_the_schema_is_that_of_the_types_and_takes_the_same_files() -> None:
    assert schema() == generated(), f"write config/{SCHEMA_FILE} anew"
    jsonschema.validate(yaml.safe_load(FULL), schema())


# text -> what is told, with its line: faults that every reader of the schema finds, and others.
FAULTS = {
    "builds: {a: {model: m, treads: 4}}": "line 1, .*no field is named 'treads'; did you mean 'threads'",
    "builds:\n  a:\n    model: m\n    threads: two": r"line 4, builds\.a\.threads: expected `int",
    "builds:\n  a:\n    model: m\n    precision: [bf16, bf17]": r"line 4.*there is no 'bf17'; did you mean 'bf16'",
    "builds:\n  a:\n    model: m\n    shapes:\n      x: 8": r"line 5, builds\.a\.shapes\.x: .*quote it",
    "builds:\n  a:\n    model: m\n    shapes: {x: 1xx2}": "line 4, .*does not match",
    "builds:\n  a:\n    model: m\n    shapes: {x: 0x10}": "line 4, .*16: quote it",
    "builds:\n  a:\n    model: no": "line 3, .*YAML takes yes, no",
    "builds:\n  a:\n    model: m\n    profiles:\n      - x: {min: 1, opt: '2'}": "line 5, .*max is missing",
    "builds: {}": "line 1, .*length >= 1", "model: m": "builds is missing",
    "builds:\n  a b: {model: m}": "line 2, .*match",
    "builds:\n  a: [1]": "line 2, .*a table of fields is expected, not a list"}
FURTHER = {
    "builds:\n  a: {model: m}\n  b: {model: m}": "line 3, builds.b.output: it writes m.plan, and so does 'a'",
    "builds:\n  a:\n    model: m\n    max_drop: .nan": "line 4, .*expected `float` > 0",
    "builds:\n  a:\n    model: m\n    max_drop: 1": "line 4, .*needs data to judge by",
    "builds:\n  a:\n    model: \"m\\n\"": "line 3, .*does not match",
    "builds:\n  a: {}": "line 2, builds.a: model is missing",
    "defaults: {output: x}\nbuilds: {a: {model: m}}": "line 1, defaults.output: each build writes a file of its own"}


@pytest.mark.parametrize("text", [*FAULTS, *FURTHER])
def test_faults_are_told_with_their_line(text: str) -> None:
    with pytest.raises(InputError) as e:
        configuration(text)
    assert re.search({**FAULTS, **FURTHER}[text], e.value.why), e.value.why


@pytest.mark.parametrize("text", FAULTS)
def test_the_schema_refuses_them_too(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), schema())


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InputError, match="3 faults") as e:
        configuration("builds:\n  a:\n    model: 1\n    b: 2\n    opt_level: 6\n")
    assert [line.split(",")[0].strip() for line in e.value.why.splitlines()] == ["line 3", "line 4", "line 5"]


@pytest.mark.parametrize(("text", "what"), [
    ("a: &x [1]\nb: *x", "aliases"), ("a: 1\na: 2", "given twice"), ("? [a]\n: 1", "name is plain text"),
    ("<<: {a: 1}", "name is plain text"), ("[" * 50_000, "nested"), ("a: !!python/name:os.system", "not YAML"),
    ("a: [", "not YAML"), ("schema: 2\nbuilds: {}", "newer whet"), ("just text", "a table of fields")])
def test_hostile_files_are_refused(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "whet.yaml").write_text(text)
    with pytest.raises(InputError, match=what):
        read(tmp_path / "whet.yaml")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_bytes(b"#" * (data_file.MOST_BYTES + 1))
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\x00")
    for name, what in (("large.yaml", "too long"), ("empty.yaml", "empty"), ("binary.yaml", "UTF-8"),
                       ("none.yaml", "cannot be read"), ("x.ini", "cannot be read"), (".", "not a file")):
        with pytest.raises(InputError, match=what):
            read(tmp_path / name)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(
        ["1x8", "1..2..3", "bf16", "m.onnx", "cuda"]),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3) | st.sampled_from(
        ["min", "opt", "max", *MEANINGS]), x, max_size=4), max_leaves=10)


@settings(max_examples=40)
@given(st.dictionaries(
    st.sampled_from(["builds", "schema", "defaults", "x"]) | st.text(max_size=2),
    VALUES | st.fixed_dictionaries({"a": st.dictionaries(st.sampled_from(list(MEANINGS)), VALUES, max_size=6)}),
    max_size=3))
def test_no_data_break_the_reader(data: Any) -> None:
    try:
        found = check(data_file.read_yaml(json.dumps(data), "x"), Path("x"))
    except InputError as e:
        assert e.what  # noqa: PT017
        return
    for build in found.builds.values():
        again = check(data_file.read_yaml(exported(build.asked(), name="b"), "x"), Path("x"))
        assert again.builds["b"].asked() | {"output": ""} == build.asked() | {"output": ""}


@settings(max_examples=40)
@given(st.text(alphabet="ab:-[]{}&*!#\n \"'|>?%\t1,<", max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        check(data_file.read_yaml(text, "x"), Path("x"))
    except InputError as e:
        assert e.what  # noqa: PT017


# What a build is asked by Python -> its plan's configuration builds the same plan.
ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "profile": {"profiles": [{"x": ((1, 8), (4, 8), (9, 8))}, {"n": (1, 16, 32)}], "precision": "bf16",
                "force_precision": True},
    "kept": {"shapes": {"x": (3, 8)}, "precision": {"fp32", "bf16"}, "fp32_layers": ["first"], "force_precision": True},
    "weights": {"weights": "int8", "weight_group": 0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Path:
    found = tmp_path_factory.mktemp("yaml")
    model(found / "m.onnx")
    return found


@pytest.mark.parametrize("name", ASKED)
def test_a_configuration_from_a_plan_builds_the_same_plan(name: str, folder: Path) -> None:
    cache = folder / "whet.cache"
    plan = whet.build(folder / "m.onnx", opt_level=0, threads=1, timing_cache=cache, **ASKED[name])
    built = of(plan.evidence)
    assert built is not None
    assert built.objects == ()
    file = folder / f"{name}.yaml"
    file.write_text(exported(built.asked, built.objects, name, f"{name}.plan"))
    found = read(file)
    assert building.run(found.resolved(found.choose())) == 0
    again = Plan.open(folder / f"{name}.plan")
    assert again.hash == plan.hash
    record = of(again.evidence)
    assert record is not None
    same = {k: v for k, v in record.asked.items() if k not in ("model", "timing_cache")}
    assert same == {k: v for k, v in built.asked.items() if k not in ("model", "timing_cache")}
    if name == "plain":
        twin = whet.build(folder / "m.onnx", opt_level=0, threads=2)
        assert twin.hash != plan.hash


def test_paths_and_objects_are_told_as_a_document_may_tell_them() -> None:
    told, objects = asked(model="/home/me/m.onnx", calib=[1, 2], eval="data/e.npz", metric=len, precision=())
    assert told == {"model": "m.onnx", "eval": "data/e.npz"}
    assert objects == ("calib", "metric")
    assert build_command(told, objects) == \
        "whet build m.onnx -o m.plan --target cpu --eval data/e.npz --calib CALIB --metric METRIC"
    assert "# calib was given as an object" in exported(told, objects)
