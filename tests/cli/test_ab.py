"""`whet compare --ab`: docs/trials.md works as it stands, exit codes, files in two languages, bad input."""

import json
import re
import shlex
import sys
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest

import whet
from whet import demo
from whet.cli import main as cli
from whet.decide import trial_record
from whet.measure import this_device
from whet.measure.record import Load, Measurement, Model, encode
from whet.measure.stats import latency

DOCS = (Path(__file__).parents[2] / "docs" / "trials.md").read_text("utf-8")
DIGITS = Path(demo.__file__).parent


def record(seed: int, scale: float = 1.0, **more: object) -> Measurement:
    rng = np.random.default_rng(seed)
    made = Measurement(date="2026-01-01T00:00:00+00:00", model=Model(name="m"), backend="whet", precision="fp32",
                       threads=2, shapes={"x": (1, 3)}, device=this_device(), versions={"whet": "1"},
                       load=Load(alternating=("whet fp32", "whet bf16")),
                       latency=latency(scale * np.exp(0.02 * rng.standard_normal(2000))))
    return msgspec.structs.replace(made, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files by the names that the page uses."""
    f = tmp_path_factory.mktemp("trials")
    rng = np.random.default_rng(0)
    right = rng.random(7000) < 0.76
    other = right.copy()
    for value in (True, False):  # as many lost as gained
        changed = rng.choice(np.flatnonzero(right == value), 70, replace=False)
        other[changed] = not value
    for n, prefix in ((7000, ""), (2000, "look1")):
        for name, values in (("a", right), ("b", other)):
            lines = [f"img{i},{int(v)}" for i, v in enumerate(values[:n])]
            (f / f"{prefix}{name}.csv").write_text("id,outcome\n" + "\n".join(lines) + "\n")
    for name in ("old", "new"):
        (f / f"{name}.csv").write_text("outcome\n" + "\n".join(str(int(v)) for v in rng.random(9000) < 0.9) + "\n")
    (f / "pilot.csv").write_text("latency\n" + "\n".join(f"{x:.6f}" for x in np.exp(0.1 * rng.standard_normal(4000))))
    seconds = np.exp(0.1 * rng.standard_normal(500))
    for name, values in (("a", seconds), ("b", seconds * np.exp(0.01 * rng.standard_normal(500)))):
        (f / f"{name}.json").write_text(json.dumps({f"r{i}": v for i, v in enumerate(values.tolist())}))
    (f / "before.json").write_bytes(encode([record(1)]))
    (f / "after.json").write_bytes(encode([record(2, 0.9)]))
    data = np.load(DIGITS / "digits_test.npz")
    np.savez(f / "val.npz", image=data["images"].astype(np.float32) / 16, labels=data["labels"])
    for precision in ("fp32", "bf16"):
        whet.build(DIGITS / "digits.onnx", precision=precision, force_precision=True, opt_level=0, threads=1,
                   timing_cache=f / "cache").save(f / f"{precision}.plan")
    return f


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> object:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as e:
        cli.main()
    return e.value.code or 0


def test_the_commands_of_the_page_run(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 12
    monkeypatch.setattr("whet.cli.ab_plans.SECONDS", 0.05)
    said = {}
    for line in lines:
        code = run(monkeypatch, line)
        said[line] = capsys.readouterr().out
        if "bf16" in line:  # 540 images bound the loss just so if none is answered differently; times are uncertain
            assert code in ((0, 3) if "eval" in line else (0, 1, 3))
        else:
            assert code == (3 if line.startswith("whet compare --ab look1a") else 0), (line, said[line])
    assert "6,854 samples" in said[lines[0]]
    assert "Held" in said[lines[4]]
    assert {p.name for p in (folder / "report").iterdir()} == {"trial.html", "trial.md", "trial.json"}


def test_the_python_of_the_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert code
    exec(code[1], {})
    printed = re.search(r"# (held .*)", code[1])
    assert printed
    assert capsys.readouterr().out.strip() == printed[1]


def test_a_slower_version_is_not_held(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    assert run(monkeypatch, "whet compare --ab after.json before.json --statistic p50 --margin 5%") == 1
    assert "Not held" in capsys.readouterr().out
    (folder / "three.json").write_bytes(encode([record(i) for i in (1, 2, 3)]))
    assert run(monkeypatch, "whet compare --ab three.json three.json --margin 5%") == 0
    assert "run" in capsys.readouterr().out


def test_a_metric_that_is_no_share_is_judged_too(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    line = "whet compare --ab fp32.plan bf16.plan --eval val.npz --metric f1 --margin 2 --json -"
    assert run(monkeypatch, line) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["metric"], told["state"]) == ("metric", "f1", "held")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_reports_are_whole_pages_in_both_languages(folder: Path, monkeypatch: pytest.MonkeyPatch, lang: str,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    for name, line, code in (("t", "look1a.csv look1b.csv --stopping pocock --planned 7000", 3),
                             ("d", "--discordance 0.02 --stopping pocock --looks 4", 0)):
        line += f" --margin 0.5 -o {name}-{lang} --lang {lang} --json -"
        assert run(monkeypatch, f"whet compare --ab {line}") == code
        told = json.loads(capsys.readouterr().out)
        jsonschema.validate(told, trial_record.schema())
        assert json.loads((folder / f"{name}-{lang}" / "trial.json").read_text()) == told
        page = (folder / f"{name}-{lang}" / "trial.html").read_text("utf-8")
        assert page.count("<svg") == 1
        assert f'<html lang="{lang}">' in page
        assert not re.search(r"(src|href)=", page)
        assert ("错误率" in page) == (lang == "zh")
        lines = (folder / f"{name}-{lang}" / "trial.md").read_text("utf-8").splitlines()
        assert {line.count("|") for line in lines if line.startswith("|")} <= {4, 6}


def test_labels_cannot_smuggle_markup(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    evil = {"label": "<script>alert(1)</script>|x\n# y [red]", "outcomes": [1, 0, 1]}
    for name in "xy":
        (folder / f"{name}.json").write_text(json.dumps(evil))
    assert run(monkeypatch, "whet compare --ab x.json y.json --paired --margin 50 -o evil") == 0
    assert "<script>alert" not in (folder / "evil" / "trial.html").read_text()
    (folder / "x.json").write_text(json.dumps({**evil, "label": "<script>|x"}))
    assert run(monkeypatch, "whet compare --ab x.json y.json --paired --margin 50 -o evil") == 0
    text = (folder / "evil" / "trial.md").read_text()
    assert "<script" not in text
    assert "\n# y" not in text


BAD = [
    "a.csv b.csv", "a.csv b.csv --margin nan", "a.csv b.csv --margin 0", "a.csv b.csv --margin -1", "--margin 0.5",
    "a.csv b.csv --margin 0.5%", "a.csv b.csv --margin 2ms", "a.csv b.csv a.csv --margin 1", "a.csv b.csv --margin 100",
    "a.csv none.csv --margin 1", "a.csv before.json --margin 1", "fp32.plan bf16.plan --margin 1",
    "new.csv old.csv --margin 1", "fp32.plan a.csv --eval val.npz --margin 1", "a.csv look1b.csv --margin 1",
    "a.csv b.csv --margin 1 --stopping often", "a.csv b.csv --margin 1 --stopping pocock",
    "a.csv b.csv --margin 1 --missing guess", "a.csv b.csv --margin 1 --lang xx",
    "a.csv b.csv --margin 1 --confidence 2",
    "before.json after.json --margin 5", "before.json after.json --margin 5% --higher-better",
    "fp32.plan bf16.plan --margin 5% --stopping always-valid --planned 9",
    "a.csv b.csv --margin 1 --method exact",
    "before.json after.json --margin 5% --statistic p0", "before.json after.json --margin 1 --statistic accuracy",
    "before.json after.json --margin 5% --backend tensorrt", "a.csv b.csv --margin 1 --previous a.json",
    "fp32.plan bf16.plan --eval val.npz --metric f1 --margin 1 --stopping pocock --planned 9",
    "a.csv b.csv --margin 1 --column none", "fp32.plan bf16.plan --eval val.npz --metric top1 --margin 5%",
    "elsewhere.json before.json --margin 5%", "shapes.json before.json --margin 5%", "two.json before.json --margin 5%",
    "a.csv b.csv --margin 1 --unpaired --ratio 0.5", "a.csv b.csv --margin 1 -o /proc/none",
    "pilot.csv --margin 5 --statistic p99.999", "pilot.csv --margin 5 --share 0.5", "a.csv b.csv --discordance 0.1",
]


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_a_sentence_and_exit_code_two(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    device = msgspec.structs.replace(this_device(), fingerprint="other", name="Other")
    (folder / "elsewhere.json").write_bytes(encode([record(1, device=device)]))
    (folder / "shapes.json").write_bytes(encode([record(1, shapes={"x": (8, 3)})]))
    (folder / "two.json").write_bytes(encode([record(1), record(2, precision="bf16")]))
    assert run(monkeypatch, f"whet compare --ab {line}") == 2
    said = capsys.readouterr().err
    assert re.match(r"\s*\[W\d+-", said), said  # behind what is left of a progress bar


def test_different_hardware_is_labelled_where_it_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    device = msgspec.structs.replace(this_device(), fingerprint="other", name="Other")
    (folder / "elsewhere.json").write_bytes(encode([record(3, device=device)]))
    line = "elsewhere.json before.json --margin 5% --statistic p50 --mixed-hardware"
    assert run(monkeypatch, f"whet compare --ab {line}") == 0
    assert "Different hardware" in capsys.readouterr().out


def test_without_ab_it_says_what_it_can_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "whet compare") == 2
    assert "--ab" in capsys.readouterr().err
