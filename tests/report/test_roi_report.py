"""The report of `whet roi` in HTML, Markdown and CSV, English and Chinese."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree

import pytest

from decide.roi_scenarios import WORKED, decide, worked
from whet.decide.result import Result
from whet.report import roi

EVERYTHING = {
    "growth": 3, "uncertainty": {"load": {"low": 0.8, "high": 1.3}, "labour": {"low": 0.8, "high": 1.5}},
    "gains": [{"name": "=retention", "per_month": 900, "source": "sales"}], "claims": ["800 -> 200 ms is 60 %"],
    "electricity": {"grid": "US"}, "discount_percent_per_year": 8}


@pytest.fixture(scope="module")
def full() -> Result:
    extra = {k: v for k, v in EVERYTHING.items() if k != "growth"}
    options = [{**WORKED["options"][0], "name": "<b>old & slow</b>"},
               {k: v for k, v in WORKED["options"][1].items() if k != "price_per_hour"}
               | {"instance": "aws/us-east-1/g4dn.xlarge", "name": "=new|fast"},
               {"name": "never", "throughput": 2, "p99_ms": 300, "price_per_hour": 9.0}]
    return decide(worked(options=options, before="<b>old & slow</b>", after="=new|fast", **extra), gains=True)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_stands_alone_and_escapes(full: Result, lang: str) -> None:
    page = roi.html(full, lang)
    assert not re.search(r"<(script|link|img|iframe)|@import|url\(|src=", page)
    assert "<b>old" not in page
    assert "&lt;b&gt;old &amp; slow&lt;/b&gt;" in page
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 3
    for svg in charts:
        ElementTree.fromstring(svg)
        assert "nan" not in svg
    assert f'lang="{lang}"' in page


def test_the_page_says_what_matters(full: Result) -> None:
    page = roi.html(full)
    for text in ("Cash flow", "What sways it", "P99 against cost", "Is a new GPU worth it?", "INT8 or not?",
                 "Edge or cloud?", "Which batch?", "Energy and carbon", "2026-07-20", "stale", "90 % of the draws",
                 "These are estimates", "nominal board power", "From 800 to 200 is a change of 75 %",
                 "meets no objective"):
        assert text in page, text


def test_chinese_is_chinese(full: Result) -> None:
    page = roi.html(full, "zh")
    for text in ("值得", "现金流", "要不要升级 GPU?", "边缘还是云?", "回本期", "净现值", "过期"):
        assert text in page, text
    text = re.sub(r"<style>.*?</style>|<[^>]*>", "", page, flags=re.DOTALL)
    assert not re.search(r"\b(the|machines|payback|horizon|evidence)\b", text)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_markdown_tables_are_whole(full: Result, lang: str) -> None:
    text = roi.markdown(full, lang)
    columns = 0
    for line in text.splitlines():
        found = len(re.findall(r"(?<!\\)\|", line))
        assert found == columns or not columns or not found, line
        columns = found
    assert r"=new\|fast" in text


def test_figures_of_the_worked_example() -> None:
    text = roi.markdown(decide(worked()))
    for figure in ("1,728 USD", "0.3456", "2.894 months", "3.147", "| PyTorch | 9 |", "| optimized | 3 |", "C101"):
        assert figure in text, figure


def test_the_table_as_csv(full: Result) -> None:
    rows = list(csv.DictReader(io.StringIO(roi.table(full).decode())))
    assert [r["option"] for r in rows] == ["<b>old & slow</b>", "'=new|fast", "never"]
    assert float(rows[1]["cost_per_month"]) == pytest.approx(3 * 0.526 * 720)
    assert rows[2]["devices"] == "" or int(rows[2]["devices"]) > 100


def test_an_undecided_result_reports_too() -> None:
    r = decide(worked(objective={"p99_ms": 30}))
    for lang in ("en", "zh"):
        assert "<svg" in roi.html(r, lang)
        assert roi.markdown(r, lang)
    assert roi.tiles(r, "en") == []
