"""The front is what no plan beats; its chart and the page around it say what the search found, without a network."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from whet.errors import InputError, OutputError
from whet.measure import this_device
from whet.precision import result as found
from whet.precision.result import Candidate, SearchResult, Timing
from whet.report import pareto, precision
from whet.report.pareto import Point, pareto_front


def test_the_front_keeps_what_nothing_beats() -> None:
    assert pareto_front([(3, 0), (2, 1), (2, 2), (1, 3), (2.5, 1), (4, 0)]) == [3, 1, 0]


def test_of_equal_points_the_first_stays() -> None:
    assert pareto_front([(1, 1), (1, 1)]) == [0]


def test_points_that_are_no_numbers_are_never_on_it() -> None:
    assert pareto_front([(1, math.nan), (math.nan, 0), (2, math.inf)]) == [2]
    assert pareto_front([]) == []


coordinates = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30)


@settings(deadline=None)
@given(coordinates)
def test_every_point_is_on_the_front_or_beaten_by_one_that_is(points: list[tuple[int, int]]) -> None:
    front = pareto_front(points)
    for i, (a, b) in enumerate(points):
        beaten = [j for j in front if points[j][0] <= a and points[j][1] <= b]
        assert beaten
        if i in front:
            assert beaten == [i]


POINTS = [Point("fp32", 23.8e-3, 0.0, 23.5e-3, 24.1e-3, 0.1, reference=True),
          Point("bf16", 6.75e-3, 0.05, 6.6e-3, 6.9e-3, 0.2),
          Point("int8, 40 of 53", 4.1e-3, 0.12, 4.0e-3, 4.2e-3, 0.35, chosen=True),
          Point("int8 <all>", 3.6e-3, 1.4, 3.5e-3, 3.7e-3, 1.9), Point("int4", 3.5e-3, 60.0, note="53 int4")]


def test_the_chart_is_valid_and_has_every_plan_the_budget_and_the_choice() -> None:
    drawn = pareto.chart(POINTS, budget=0.5, metric="top1")
    root = ElementTree.fromstring(drawn)
    assert drawn.count("<circle") == 5
    assert "budget 0.5" in drawn
    assert "int8 &lt;all&gt;" in drawn
    assert len(re.findall('class="point chosen"', drawn)) == 1
    assert len(re.findall('beyond"', drawn)) == 1, "what is far over the budget stands at the edge, open"
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.get("cx", "nan")) <= pareto.WIDTH
        assert 0 <= float(circle.get("cy", "nan")) <= pareto.HEIGHT


def test_labels_do_not_lie_on_each_other() -> None:
    many = [Point(f"plan number {i}", (50 + i) * 1e-3, 1 - i / 200) for i in range(200)]
    texts = ElementTree.fromstring(pareto.chart(many)).iter("{http://www.w3.org/2000/svg}text")
    boxes = [(float(t.get("x", 0)), float(t.get("y", 0))) for t in texts if t.get("class") == "name"]
    assert 3 < len(boxes) < 200
    assert len(set(boxes)) == len(boxes)


@pytest.mark.parametrize("points", [[Point("one", 1e-3, 0.0)], [Point("a", 1e-3, 0.0), Point("b", 1e-3, 0.0)],
                                    [Point("worse", 1e-6, -3.0, bound=math.inf)], [Point("all lost", 1.0, math.inf)]])
def test_odd_fronts_are_drawn(points: list[Point]) -> None:
    ElementTree.fromstring(pareto.chart(points, budget=0.5))


def test_nothing_to_draw_is_nothing() -> None:
    assert pareto.chart([Point("nan", 1.0, math.nan)]) == ""


def test_the_tables_have_speed_loss_and_bound() -> None:
    rows = pareto.cells(POINTS)
    assert [r[0] for r in rows] == ["int4", "int8 <all>", "int8, 40 of 53", "bf16", "fp32"]
    assert rows[2][1:] == ("4.10 ms", "4.00 to 4.20 ms", "5.80x", "0.12", "0.35", "chosen, front")
    lines = pareto.markdown(POINTS)
    assert lines[0].startswith("| plan | latency |")
    assert len({line.count("|") for line in lines}) == 1
    assert "**int8, 40 of 53**" in lines[4]
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(pareto.table(POINTS, title="Front"))
    assert "5.80x" in console.export_text()


def result(**fields: Any) -> SearchResult:
    candidates = tuple(Candidate(label=p.label, latency=Timing(seconds=p.seconds, low=p.low, high=p.high), value=0.9,
                                 loss=p.loss, bound=p.bound, plan_bytes=1000 * (5 - i), layers={"int8": 10 * i})
                       for i, p in enumerate(POINTS))
    base: dict[str, Any] = {
        "date": "2026-01-02T03:04:05+00:00", "model": "resnet <50>", "metric": "top1", "max_drop": 0.5,
        "samples": 10_000, "threads": 2, "device": this_device(), "candidates": candidates, "chosen": 2,
        "judgement": found.Judgement(state="held", sentence="Held: at most 0.35 points are lost."),
        "layers": (found.Layer(layer="conv|1", kind="conv", precision="int8", seconds=1e-4, saved=2e-4),
                   found.Layer(layer="fc", kind="matmul", precision="fp32", reason="slower in int8", saved=-1e-6)),
        "sensitivity": (found.Sensitivity(layer="conv1", kind="conv", precision="int8", loss=0.01, divergence=1e-3),),
        "kept": (found.Kept(layer="softmax", precision="fp32", reason="exponentials"),),
        "coverage": found.Coverage(method="entropy", samples=256, batches=32,
                                   warnings=("3 channels of conv1 are dead",)),
    }
    return SearchResult(**base | fields)


def test_the_page_has_it_all_and_loads_nothing() -> None:
    page = precision.html(result())
    assert not re.search(r"<(link|img|iframe)|url\(|@import|src=", page)
    assert set(re.findall(r"https?://[^\"' <]+", page)) <= {"http://www.w3.org/2000/svg"}
    for words in ("5.80 times as fast as fp32", "60% of the size", "Held: at most 0.35", "conv|1", "slower in int8",
                  "exponentials", "256 samples in 32 batches, method entropy", "3 channels of conv1 are dead"):
        assert words in page, words
    assert "resnet &lt;50&gt;" in page
    assert "<50>" not in page


def test_the_page_is_well_nested() -> None:
    class Nesting(HTMLParser):
        stack: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "path", "rect", "circle"):
                self.stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("meta", "path", "rect", "circle"):
                assert self.stack.pop() == tag

    parser = Nesting()
    parser.feed(precision.html(result()))
    assert parser.stack == []


def test_markdown_has_the_same_tables() -> None:
    text = precision.markdown(result())
    assert "| conv\\|1 | conv | int8 | 100 us | 200 us |" in text
    assert "| fc | matmul | fp32: slower in int8 | - | -1.00 us |" in text
    assert "## Kept in higher precision" in text
    assert "- **3 channels of conv1 are dead**" in text


def test_where_no_plan_meets_the_budget_the_nearest_is_shown() -> None:
    text = precision.markdown(result(chosen=None, nearest=3, judgement=None))
    assert "No plan meets the budget of 0.5 points." in text
    assert "Nearest: int8 <all>, 3.60 ms a call, with a loss of 1.4 points." in text


def test_a_loss_without_bounds_survives_the_file_and_the_page() -> None:
    lost = msgspec.structs.replace(result().candidates[0], label="broken", loss=math.inf)
    again = found.decode(result(candidates=(*result().candidates, lost)).encode())
    assert again.candidates[-1].loss is None
    assert "broken" in precision.html(again)
    assert found.decode(again.encode()) == again


def test_files_are_written_whole(tmp_path: Path) -> None:
    page, text, data = precision.write(result(), tmp_path / "out")
    assert page.read_text().endswith("</html>\n")
    assert text.read_text().startswith("# Precision of resnet")
    assert found.read(data) == result()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"precision.html", "precision.md", "precision.json"}
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        precision.write(result(), tmp_path / "file" / "out")


@pytest.mark.parametrize(("data", "words"), [
    (b"", "not the result"), (b"[]", "not the result"), (b'{"schema": 2}', "newer whet"),
    (b"[" * 9999, "not the result")])
def test_bad_results_are_one_clear_error(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        found.decode(data)


def test_a_choice_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no candidate"):
        found.decode(result().encode().replace(b'"chosen": 2', b'"chosen": 9'))
    with pytest.raises(InputError, match=r"nothing\.json"):
        found.read(Path("nothing.json"))
