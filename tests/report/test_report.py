"""Reports say what the records say, need no network, and survive odd names."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from record_samples import measurement
from whet.errors import OutputError
from whet.measure import record, stats
from whet.report import html, markdown, rows, write


def samples() -> list[record.Measurement]:
    rng = np.random.default_rng(0)
    ours = stats.latency(1e-4 * (1 + 0.1 * rng.random(300)))
    theirs = stats.latency(2e-4 * (1 + 0.1 * rng.random(300)))
    return [
        measurement(latency=ours, throughput=9523.0, accuracy=record.Accuracy(metric="top1", value=0.99, samples=540),
                    plan=record.PlanId(hash="ab" * 32, bytes=612_000),
                    comparisons=(record.Comparison(backend="onnxruntime", precision="fp32", ratio=2.0, low=1.9,
                                                   high=2.1, rounds=20),)),
        measurement(backend="onnxruntime", latency=theirs),
    ]


def test_html_has_the_figures_and_loads_nothing() -> None:
    page = html(samples(), "A demo")
    assert "99.00% of 540" in page
    assert "2.00x" in page
    assert not re.search(r"<(script|link|img|iframe)|url\(|@import|src=", page)
    assert set(re.findall(r"https?://[^\"' <]+", page)) <= {"http://www.w3.org/2000/svg"}


def test_html_is_well_nested_and_its_charts_are_valid_xml() -> None:
    page = html(samples(), "A demo")
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        ElementTree.fromstring(chart)

    class Nesting(HTMLParser):
        stack: list[str] = []

        def handle_starttag(self, tag, attrs) -> None:
            if tag not in ("meta", "path", "rect", "circle"):
                self.stack.append(tag)

        def handle_endtag(self, tag) -> None:
            if tag not in ("meta", "path", "rect", "circle"):
                assert self.stack.pop() == tag

    parser = Nesting()
    parser.feed(page)
    assert parser.stack == []


def test_names_cannot_break_out_of_the_page() -> None:
    bad = measurement(model=record.Model(name="<script>alert(1)</script>"), latency=stats.latency([1.0, 2.0]))
    assert "<script" not in html([bad], "<script>")


def test_markdown_has_a_row_for_each_record() -> None:
    text = markdown(samples(), "A demo")
    assert re.search(r"\| whet fp32 \| 99\.00% of 540 \| 10\d us \[", text)
    assert "| ONNX Runtime fp32 | - |" in text


@pytest.mark.parametrize(("low", "high", "words"), [
    (1.1, 1.3, "1.20 times as fast as"), (0.9, 1.4, "not told apart"), (0.7, 0.95, "slower than")])
def test_a_ratio_is_a_win_only_if_its_whole_interval_is(low: float, high: float, words: str) -> None:
    c = record.Comparison(backend="onnxruntime", precision="fp32", ratio=1.2, low=low, high=high, rounds=9)
    (finding,) = rows.findings([measurement(comparisons=(c,))])
    assert words in finding


@pytest.mark.parametrize(("value", "text"), [
    (12.34e-6, "12.3 us"), (1.234e-3, "1.23 ms"), (0.1234, "123 ms"), (2.5, "2.50 s"), (0, "0 us")])
def test_times_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert rows.seconds(value) == text


def test_thousands_are_rounded_to_three_digits() -> None:
    assert rows.significant(123_456.7) == "123,000"
    assert rows.significant(9523.4) == "9,520"


def test_files_are_written_whole(tmp_path: Path) -> None:
    page, text = write(samples(), tmp_path / "out", "A demo")
    assert page.read_text().endswith("</html>\n")
    assert text.read_text().startswith("# A demo")
    assert record.read(tmp_path / "out" / "measurements.json") == samples()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"report.html", "report.md", "measurements.json"}


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write(samples(), tmp_path / "file" / "out", "A demo")


def test_no_records_make_a_page_that_says_so() -> None:
    assert "Nothing was measured" in html([], "Empty")
    assert markdown([], "Empty").startswith("# Empty")
