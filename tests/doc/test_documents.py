"""Documents say what their plans say; whatever is changed in either is found."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import whet
from documented import model, samples, searched
from record_samples import measurement
from whet.doc import Card, Document, Facts, check, facts, parse, plan_document, updated, written
from whet.doc.page import html
from whet.errors import InputError, PlanFormatError
from whet.measure.record import Accuracy, Comparison, Latency, Measurement, Memory, PlanId, Quantile
from whet.plan.built import Built

CARD = Card("org/base", "image-classification", "imagenet-1k")


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """A calibrated plan, with what a search would have left."""
    folder = tmp_path_factory.mktemp("doc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHET_CACHE", str(folder))
        patch.chdir(folder)
        plan = whet.build(model(folder / "tiny.onnx"), opt_level=0, threads=1, precision="int8",
                          calibration=str(samples(folder / "tiny.npz")), timing_cache="tiny.cache")
    found = facts(plan)
    return replace(found, evidence={**found.evidence, "precision": searched()})


def quantile(value: float) -> Quantile:
    return Quantile(value=value, low=0.9 * value, high=1.1 * value)


@pytest.fixture(scope="session")
def records(told: Facts) -> list[Measurement]:
    mine = PlanId(hash=told.summary["hash"], bytes=1)
    latency = Latency(count=9, mean=1e-3, minimum=9e-4, p50=quantile(1e-3), p90=quantile(2e-3),
                      p99=Quantile(value=3e-3))
    full = {"plan": mine, "latency": latency, "throughput": 1000.0, "precision": "int8", "shapes": {"x": (1, 8)},
            "memory": Memory(peak_bytes=2 << 20, idle_bytes=1 << 20),
            "accuracy": Accuracy(metric="top1", value=0.91, samples=200, low=0.86, high=0.94),
            "comparisons": (Comparison(backend="torch", precision="fp32", ratio=1.5, low=1.4, high=1.6, rounds=9),)}
    other = PlanId(hash="f" * 64, bytes=1)
    return [measurement(**full), measurement(**full | {"date": "2025-01-01T00:00:00+00:00", "throughput": 7.0}),
            measurement(plan=mine, shapes={"x": (2, 8)}), measurement(), measurement(plan=other)]


@pytest.fixture(scope="session")
def page(told: Facts, records: list[Measurement]) -> str:
    return written(plan_document(told, records, "en", CARD))


def verdict(text: str, told: Facts, records: list[Measurement], unrecorded: bool = False) -> Any:
    return check(parse(text, "m.md"), [lambda lang, card: plan_document(told, records, lang, card)], unrecorded)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_document_holds_as_it_was_written(told: Facts, records: list[Measurement], lang: str) -> None:
    found = verdict(written(plan_document(told, records, lang, CARD)), told, records)
    assert (found.exit_code, found.drifts, found.edited, found.unchecked, found.blocks) == (0, (), (), (), 7)


def test_it_says_what_people_ask(page: str) -> None:
    for line in ("| `precision.compute` | `int8` |", "| `opt_level` | `0` |", "| `calib` | `tiny.npz` |",
                 "| `timing_cache` | `tiny.cache` |", "calibration samples<br/>tiny.npz", "1 layers in int8, 1 kept",
                 "| at build | latency P50 | 10.0 us | 9.00 to 11.0 us |", "99.10% (top1, 512 samples)",
                 "| measurement 1 | latency P99 | 3.00 ms | too few samples to bound |", "| 1.50x | 1.40 to 1.60 |",
                 "| measurement 2 | throughput | not measured |", "base_model: org/base",
                 "base_model_relation: quantized", "library_name: whet",
                 "whet build tiny.onnx -o tiny.plan --target cpu --int8 --calib tiny.npz --opt-level 0 --threads 1 "
                 "--timing-cache tiny.cache"):
        assert line in page, line
    assert "7.00/s" not in page, "the older record of a setting"
    assert "measurement 3" not in page, "other plans' records"


def test_figures_that_nobody_measured_say_so(told: Facts) -> None:
    said = written(plan_document(replace(told, evidence={})))
    assert said.count("not measured") == 5


def test_every_change_of_the_document_is_found(page: str, told: Facts, records: list[Measurement]) -> None:
    card, body = plan_document(told, records, "en", CARD), plan_document(told, records)
    front = parse(page).blocks["card", ""]
    kinds = found_changes(page, range(front.begin + 1, front.end), card)
    plain = written(body)
    inside = [i for b in parse(plain).blocks.values() for i in range(b.begin + 1, b.end)]
    kinds |= found_changes(plain, inside, body)
    assert kinds == {"cell", "node", "edge", "text", "removed", "doubled"}


def found_changes(page: str, inside: Iterable[int], made: Document) -> set[str]:
    """The kinds of the changes of these lines, all of which must be found where they are."""
    lines, kinds = page.split("\n"), set[str]()
    for i in inside:
        for kind, changed in mutations(lines[i]):
            text = "\n".join([*lines[:i], *changed, *lines[i + 1:]])
            try:
                found = check(parse(text), [lambda lang, card: made])
            except InputError:  # YAML that is none, a fence that does not close
                continue
            assert found.exit_code == 1, (kind, lines[i], changed)
            assert found.edited
            assert any(abs(d.line - 1 - i) <= 1 for d in found.drifts), (kind, lines[i], [str(d) for d in found.drifts])
            kinds.add(kind)
    return kinds


def mutations(line: str) -> Iterator[tuple[str, list[str]]]:
    """Changed forms of a line: each cell of a table, each node and edge of the flow, the text, the line itself."""
    yield "removed", []
    if line.strip():
        yield "doubled", [line, line]
    if line.startswith("| "):
        cells = line.split(" | ")
        for k, cell in enumerate(cells):
            yield "cell", [" | ".join([*cells[:k], cell.replace("`", "") + "9", *cells[k + 1:]])]
    elif "-->" in line:
        a, _, b = line.strip().partition(" --> ")
        yield "edge", [f"  {b} --> {a}"]
        yield "edge", [f"  {a} --> {b}0"]
    elif re.match(r"  \w+\[", line):
        yield "node", [line.replace('"]', 'x"]').replace('")', 'x")')]
    elif line.strip():
        yield "text", [line[:-1] + ("x" if line[-1] != "x" else "y")]


def test_the_field_the_value_and_the_line_are_told(page: str, told: Facts, records: list[Measurement]) -> None:
    changed = page.replace("| `opt_level` | `0` |", "| `opt_level` | `3` |").replace("| 1,000/s |", "| 9,000/s |")
    first, second = verdict(changed, told, records).drifts
    assert (first.field, first.documented, first.actual) == ("configuration: `opt_level`, value", "`3`", "`0`")
    assert changed.split("\n")[first.line - 1].startswith("| `opt_level`")
    assert second.field == "figures: measurement 1, throughput, value"


def leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(data, dict):
        for k, v in data.items():
            yield from leaves(v, (*path, k))
    elif isinstance(data, (list, tuple)) and data:
        for i, v in enumerate(data):
            yield from leaves(v, (*path, i))
    else:
        yield path


def changed(data: Any, path: tuple[Any, ...]) -> Any:
    """A copy with another value there, of the same type."""
    if not path:
        if isinstance(data, bool):
            return not data
        if isinstance(data, (int, float)):
            return data * 2 + 3
        return f"{data}x" if isinstance(data, str) else data
    out = list(data) if isinstance(data, (list, tuple)) else dict(data)
    out[path[0]] = changed(data[path[0]], path[1:])
    return out


# What a document does not tell: single layers, what is beside the plan's hash and differs between equal builds.
SILENT = {
    "summary": {"bytes", "launches", "copies", "layers", "output_values", "weight_bytes", "arena_bytes"},
    "evidence": {"build", "tuning", "tuning_seconds", "work", "notes", "failed", "precision"},
    "built": {"schema", "date"}}


def test_every_change_of_a_documented_field_of_the_plan_is_found(told: Facts, records: list[Measurement]) -> None:
    whole = {"summary": dict(told.summary), "evidence": dict(told.evidence), "built": msgspec.to_builtins(told.built)}
    silent: dict[str, set[str]] = {k: set() for k in whole}
    found = 0
    page = written(plan_document(told, records))
    for path in leaves(whole):
        other = changed(whole, path)
        if other == whole:
            continue
        try:
            twin = Facts(other["summary"], other["evidence"], msgspec.convert(other["built"], Built))
            same = verdict(page, twin, records).exit_code == 0
        except PlanFormatError:  # a candidate's number that there is not
            same = False
        if same:
            silent[path[0]].add(path[1])
        found += not same
    assert found > 100
    assert {k: v - SILENT[k] for k, v in silent.items()} == {k: set() for k in silent}
    chosen = ("latency", "value", "value_low", "value_high", "loss", "bound")
    for field in chosen:  # of the search: the plan that was chosen
        row = copy.deepcopy(whole["evidence"])
        c = row["precision"]["candidates"][1]
        c[field] = {"seconds": 1.0} if field == "latency" else c[field] * 2
        assert verdict(page, replace(told, evidence=row), records).exit_code == 1, field


def test_every_change_of_a_record_is_found(page: str, told: Facts, records: list[Measurement]) -> None:
    other = [msgspec.structs.replace(records[0], date="2027-01-01T00:00:00+00:00"), *records[1:]]
    assert {"origin"} == {d.field.rpartition(", ")[2] for d in verdict(page, told, other).drifts}
    assert verdict(page, told, records[:1]).exit_code == 1


def test_figures_without_their_records_are_undecided(page: str, told: Facts) -> None:
    found = verdict(page, told, [], unrecorded=True)
    assert found.exit_code == 3
    assert len(found.unchecked) == 2
    assert verdict(page.replace("`int8`", "`int4`", 1), told, [], unrecorded=True).exit_code == 1


def test_a_missing_block_a_changed_checksum_and_another_plans_block_are_told(page: str, told: Facts,
                                                                            records: list[Measurement]) -> None:
    block = parse(page).blocks["calibration", "en"]
    lines = page.split("\n")
    (drift,) = verdict("\n".join(lines[:block.begin] + lines[block.end + 1:]), told, records).drifts
    assert drift.field == "block calibration (en)"
    (drift,) = verdict(page.replace(block.checksum, "0" * 16), told, records).drifts
    assert drift.field == "calibration.checksum"
    more = page + "\n<!-- whet:begin build.x lang=en -->\n<!-- whet:end build.x e3b0c44298fc1c14 -->\n"
    assert verdict(more, told, records).exit_code == 3


def test_text_of_ones_own_is_kept(page: str, told: Facts, records: list[Measurement]) -> None:
    mine = "Hand-written, with `<!-- whet:begin -->` told of.\n\n```\n<!-- whet:begin head lang=en -->\n```\n"
    front = page.replace("---\n# whet", "---\nlicense: mit\n# whet", 1)
    own = front.replace("<!-- whet:begin stages", mine + "\n<!-- whet:begin stages") + mine
    assert verdict(own, told, records).exit_code == 0
    makers = [lambda lang, card: plan_document(told, records[:1], lang, card)]
    fresh = updated(parse(own), makers)
    assert fresh.count(mine) == 2
    assert "license: mit" in fresh
    assert verdict(fresh, told, records[:1]).exit_code == 0
    assert updated(parse(fresh), makers) == fresh
    with pytest.raises(InputError, match="edited by hand"):
        updated(parse(own.replace("int8", "int4")), makers)
    assert updated(parse(own.replace("| `int8` |", "| `int4` |")), makers, force=True) == fresh


def test_blocks_are_added_to_a_file_without_any(told: Facts) -> None:
    makers = [lambda lang, card: plan_document(told, (), lang, card)]
    for text in ("# Mine\n\nText.\n", "", "---\nlicense: mit\n---\n\n# Mine\r\n".replace("\r\n", "\n")):
        fresh = updated(parse(text), makers, "zh")
        assert fresh.startswith(text)
        assert verdict(fresh, told, []).exit_code == 0
    windows = updated(parse("# Mine\r\n"), makers)
    assert windows.count("\r\n") == windows.count("\n")
    assert verdict(windows, told, []).exit_code == 0


BEGIN, END = "<!-- whet:begin head lang=en -->", "<!-- whet:end head 0123456789abcdef -->"


@pytest.mark.parametrize(("text", "what"), [
    (f"{BEGIN}\n{BEGIN}\n", "inside"), (f"{BEGIN}\n", "does not end"), (END, "did not begin"),
    (f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", "twice"), (f"{BEGIN}\n{END.replace('head', 'stages')}\n", "'head' began"),
    ("```\ncode\n", "not closed"), ("~~~~\n```\n~~~\n", "not closed"), ("a\u202eb\n", "hides or reorders"),
    ("a\x00b", "hides or reorders"), ("a\rb\n", "carriage return"), (f" {BEGIN}\n", "looks like a marker"),
    (BEGIN.replace("whet", "wh\u200bet"), "looks like a marker"), (BEGIN.replace("begin", "BEGIN"), "looks like"),
    ("---\n# whet:begin card\na: 1\n---\n", "does not end"), ("---\n# whet:begin card x\n---\n", "looks like"),
    ("---\na: 1\n# whet:begin card\na: 2\n# whet:end card 0123456789abcdef\n---\n", "twice"),
    ("---\n# whet:begin card\na: *b\n# whet:end card 0123456789abcdef\n---\n", "aliases"),
    ("---\n# whet:begin card\na: [\n# whet:end card 0123456789abcdef\n---\n", "not YAML"),
    (f"<pre>\n{BEGIN}\n{END}\n</pre>", "does not show"), (f"<?\n{BEGIN}\n{END}\n", "does not show"),
    (f"<![CDATA[ >\n{BEGIN}\n{END}\n", "does not show"), ("\n" * 60_000, "too long")])
def test_hostile_files_are_refused_with_the_line(text: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as e:
        parse(text, "m.md")
    assert "m.md" in e.value.where


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    from whet.doc import marked, read

    (tmp_path / "binary.md").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large.md").write_bytes(b" " * (marked.MOST_BYTES + 1))
    for name, what in (("binary.md", "UTF-8"), ("large.md", "too large"), ("none.md", "cannot be read"), (".", "file")):
        with pytest.raises(InputError, match=what):
            read(tmp_path / name)
    with pytest.raises(InputError, match="no generated blocks"):
        check(parse("# Mine\n"), [])


PIECES = ["<!-- whet:begin head lang=en -->", "<!-- whet:end head 0123456789abcdef -->", "```", "~~~", "---",
          "# whet:begin card", "# whet:end card 0123456789abcdef", "a: 1", "| a | b |", "|---|---|", "  s1 --> s2", ""]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=9))
def test_no_text_breaks_the_reader_or_the_check(told: Facts, lines: list[str]) -> None:
    try:
        page = parse("\n".join(lines), "m.md")
        found = check(page, [lambda lang, card: plan_document(told, (), lang, card)])
    except InputError:
        return
    assert found.exit_code == 1


def test_what_plans_call_things_cannot_break_out(told: Facts, records: list[Measurement]) -> None:
    from markdown_it import MarkdownIt

    evil = "a|b`c\n| x | y |\n<!-- whet:end head -->\u202e<script>alert(1)</script>\"];x[\"*_[l](u)"
    summary = {**told.summary, "model": {"name": evil, "sha256": "0"}, "inputs": [
        {"name": evil, "dtype": "float32", "shape": [1]}]}
    built = msgspec.structs.replace(told.built, asked={**told.built.asked, "model": evil, "calib": evil * 200})
    twin = Facts(summary, told.evidence, built)
    text = written(plan_document(twin, records, "en", CARD))
    assert verdict(text, twin, records).exit_code == 0
    assert len(text) < 40_000
    shown = MarkdownIt("commonmark").enable("table").render(text.split("---\n", 2)[2])
    assert "<script" not in shown
    assert "<script" not in html(plan_document(twin, records))
    rows = [line for line in text.split("\n") if line.startswith("| ")]
    assert {len(re.split(r"(?<!\\)\|", r)) for r in rows} == {5, 7}


def test_markdown_reads_it_as_it_is_meant(page: str) -> None:
    from markdown_it import MarkdownIt

    shown = MarkdownIt("commonmark").enable("table").render(page.split("---\n", 2)[2])
    assert shown.count("<table>") == shown.count("</table>") == 3
    assert [re.sub("<.*?>", "", h) for h in re.findall(r"<h\d>.*?</h\d>", shown)] == [
        "tiny", "Configuration", "Stages that ran", "Precision, speed, accuracy and memory", "Calibration",
        "Building it again"]
    assert shown.count("<pre>") == 2


def test_a_card_is_one_that_hugging_face_takes(page: str) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(page)
    assert card.data.library_name == "whet"
    assert card.data.base_model == "org/base"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == ("accuracy", 0.91, "imagenet-1k")


@pytest.mark.parametrize("wrong", ["a/b/c", "../x", "a b", "a\nb", "x" * 200])
def test_cards_of_no_name_are_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="base-model"):
        Card(wrong)


def test_the_page_needs_nothing_and_shows_the_flow(told: Facts, records: list[Measurement]) -> None:
    for lang in ("en", "zh"):
        document = plan_document(told, records, lang)
        text = html(document)
        assert f'<html lang="{lang}">' in text
        assert not re.search(r"<script|https?://(?!www\.w3\.org)|@import|url\(h", text)
        (flow,) = (p for b in document.blocks for p in b.parts if hasattr(p, "edges"))
        assert text.count('class="node') == len(flow.nodes)
        assert text.count("marker-end") == len(flow.edges)
        assert "<desc>" in text


def test_a_plan_of_an_older_whet_is_documented_by_what_it_holds(told: Facts) -> None:
    said = written(plan_document(Facts(told.summary, {**told.evidence, "build": None}, None)))
    assert "did not record its stages" in said
    assert "1 layers in int8, 1 kept" in said
    assert "does not record its command line" in said
    with pytest.raises(PlanFormatError, match="lacks what a document needs"):
        plan_document(Facts({**told.summary, "precision": []}, {}, None))
    with pytest.raises(InputError, match="no texts in 'xx'"):
        plan_document(told, (), "xx")


def test_texts_say_the_same_in_both_languages() -> None:
    from whet.config.meanings import MEANINGS
    from whet.doc.words import TEXTS

    for english, chinese in [*TEXTS.values(), *MEANINGS.values()]:
        assert set(re.findall(r"{(\w+)", english)) == set(re.findall(r"{(\w+)", chinese))
        assert english
        assert chinese


def test_the_schema_of_a_check_is_that_of_its_type() -> None:
    from whet.doc.check import Record, schema
    from whet.measure import contract

    assert schema() == contract.generated("whet doc --check", Record)
