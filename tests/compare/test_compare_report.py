"""The report says where each figure comes from, and survives what names may hold."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import comparing
import jsonschema
import msgspec
import pytest

from whet.compare import citations, result
from whet.compare.recommend import parse_constraint
from whet.compare.result import Citation, Failure, Result, Row
from whet.errors import InputError
from whet.measure.record import Accuracy, Judged, OutputError
from whet.report import compare as report
from whet.report.compare_tables import procurement
from whet.report.compare_words import _EN, _ZH, said

EVIL = "<script>alert(1)</script> | `x` [a](http://b) =1+1"
CITED = Citation(option="L4 | <b>", column="price", value="0.71 USD/h", source="a list", date="2020-01-31",
                 link="https://example.com/a?b=1&c=(2)", stale=True)


def several(**given: object) -> Result:
    judged = Judged(reference="onnxruntime fp32", max_drop=0.5, unit="points", loss=0.1, upper=0.4, state="held")
    base = Accuracy(metric="top1", value=0.9, samples=500)
    rows = [comparing.row("onnxruntime", "fp32", 0.010, accuracy=base),
            comparing.row("whet", "int8", 0.004, accuracy=Accuracy(metric="top1", value=0.899, samples=500, low=0.88,
                                                                  high=0.92, judged=judged),
                          error=OutputError(reference="onnxruntime fp32", measure="relative-l2", value=0.02)),
            comparing.row("whet", "int8", 0.020, batch=8),
            Row(key="openvino bf16, batch 1, 2 threads", backend="openvino", precision="bf16", batch=1, threads=2,
                failure=Failure(code="W100-model", what=EVIL, why=EVIL, stack=("a.py:1 f",)))]
    return comparing.compared(*rows, citations=(CITED,), notes=(EVIL,), **given)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "path", "rect", "circle", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "rect", "circle"):
            assert self.open.pop() == tag


@pytest.mark.parametrize("lang", report.LANGUAGES)
def test_the_page_is_whole_fetches_nothing_and_runs_no_names(lang: str) -> None:
    page = report.html(several(), lang)
    tags = Tags(page)
    assert not tags.open
    assert not tags.seen & {"script", "link", "img", "iframe", "object"}
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"https://example.com/a?b=1&amp;c=(2)"}
    assert page.count("<svg") >= 4
    assert "{" not in re.sub(r"(?s)<style>.*?</style>", "", page)  # no placeholder is left


def test_each_cell_is_measured_or_cited_or_not_known() -> None:
    table = procurement(several())
    for key, cells in table.rows:
        for cell in cells[1:]:
            known = cell.small == "measured here" or cell.small.startswith("cited: ")
            assert known != (cell.text == "not known"), (key, cell)
    cited = next(cells for key, cells in table.rows if key == CITED.option)[table.head.index("price")]
    assert (cited.text, cited.link, cited.warn) == (CITED.value, CITED.link, True)
    assert cited.small == "cited: a list, 2020-01-31, stale"


def test_a_citation_of_a_backend_stands_in_its_rows() -> None:
    x = msgspec.structs.replace(CITED, option="whet", column="licence", value="Apache-2.0")
    table = procurement(comparing.compared(comparing.row("whet", "fp32", 0.01), citations=(x,)))
    assert table.rows[0][1][-1].text == "Apache-2.0"
    assert len(table.rows) == 1


def test_the_json_keeps_its_schema_and_the_schema_its_types() -> None:
    assert result.schema() == result.generate_schema()
    jsonschema.validate(json.loads(several().encode()), result.schema())


def test_no_cell_of_the_csv_is_a_formula() -> None:
    c = msgspec.structs.replace(several(), citations=(msgspec.structs.replace(CITED, value="=1+1"),))
    head, body = report.tidy(c)
    text = b"".join(report.spreadsheet.lines(head, body)).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[-1]["value"] == "'=1+1"
    p99 = next(r for r in rows if r["column"] == "latency p99" and r["backend"] == "whet" and r["batch"] == "1")
    assert (float(p99["value"]), p99["unit"], p99["origin"]) == (pytest.approx(0.004, rel=0.05), "s", "measured here")


def test_markdown_keeps_names_as_they_are() -> None:
    text = report.markdown(several())
    assert "<script>" not in text
    assert "**Deploy whet int8, batch 1, 2 threads**" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) >= 3
    assert "[cited: a list, 2020-01-31, stale](https://example.com/a?b=1&c=(2%29)" in text


def test_the_answer_names_weights_constraints_and_how_sure_it_is() -> None:
    page = report.html(several(weights={"p99": 2.0, "loss": 1.0}, constraints=[parse_constraint("p99<8ms")]))
    assert "Deploy whet int8, batch 1, 2 threads" in page
    assert "Weights: p99 2, loss 1." in page
    assert "Constraints: p99&lt;8ms." in page
    assert "How sure: first in 100% of the draws of the measurements" in page
    nothing = report.html(several(constraints=[parse_constraint("p99<1us")]))
    assert "Nothing meets the constraints" in nothing


def test_every_text_has_its_chinese_and_its_values() -> None:
    for text, zh in _ZH.items():
        en = _EN.get(text, text)
        assert set(re.findall(r"{(\w+)}", en)) == set(re.findall(r"{(\w+)}", zh)), text
    page = report.html(several(), "zh")
    assert "建议部署" in page
    assert "本机实测" in page
    assert "建议部署:whet int8,批 1,2 线程" in page
    assert said("it has no bf16 on the target cpu", "zh") == "在目标 cpu 上没有 bf16"
    assert said("what nobody translated", "zh") == "what nobody translated"


def test_writing_is_whole(tmp_path: Path) -> None:
    names = [p.name for p in report.write(several(), tmp_path / "new" / "folder", "zh")]
    assert names == ["compare.html", "compare.md", "compare.json", "compare.csv"]
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(names)


GOOD = {"option": "L4", "column": "price", "value": "0.71", "source": "s", "date": "2026-01-31", "link": "https://a.b"}


@pytest.mark.parametrize("change", [
    {"date": "31.1.2026"}, {"date": "2027-01-01"}, {"link": "javascript:alert(1)"}, {"link": "https://"}, {"link": "x"},
    {"source": ""}, {"value": "a\nb"}, {"value": 3}, {"option": "x" * 300}, {"more": "x"}, {"link": "http://["}])
def test_a_citation_without_source_date_or_link_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "c.json").write_text(json.dumps([{**GOOD, **change}]))
    with pytest.raises(InputError):
        citations.read(tmp_path / "c.json", date(2026, 6, 1))


def test_citations_are_read_and_old_ones_marked(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps([GOOD, {**GOOD, "date": "2020-01-31"}]))
    assert [c.stale for c in citations.read(tmp_path / "c.json", date(2026, 6, 1))] == [False, True]
    for data in (b"", b"{}", b"[1]", b"\xff\xfe", b"[" * 100000):
        (tmp_path / "c.json").write_bytes(data)
        with pytest.raises(InputError):
            citations.read(tmp_path / "c.json")
    with pytest.raises(InputError, match="cannot be read"):
        citations.read(tmp_path / "absent.json")


def test_what_is_first_in_few_draws_is_no_clear_winner() -> None:
    rows = [comparing.row(b, "fp32", 0.01, noise=0.5) for b in ("whet", "openvino", "onnxruntime")]
    c = comparing.compared(*rows)
    few = msgspec.structs.replace(c.recommendation, ranking=tuple(
        msgspec.structs.replace(r, first=0.4) for r in c.recommendation.ranking))
    page = report.html(msgspec.structs.replace(c, recommendation=few))
    assert "No clear winner; first by its estimates" in page
    assert "Deploy" not in page
