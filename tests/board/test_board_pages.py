"""The pages of the board: what they show, that addresses hold all of their state, and that nothing in a store harms."""

from __future__ import annotations

import json
import re
import sqlite3
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from board_store import HOSTILE, START, history
from starlette.testclient import TestClient

from record_samples import measurement
from whet.board import application, words
from whet.board.data import lines, setting_key, story
from whet.board.returns import DRAWS, REQUESTS
from whet.decide import roi
from whet.decide.scenario import read
from whet.measure.record import Figure, Model
from whet.store import Store

PAGES = ("/", "/?q=resnet", "/model?model=resnet50", "/model?model=one-point", "/model?model=yolo-nano&range=30d",
         "/results/gate", "/results/forecast", "/results/comparison", "/results/failure", "/results/roi",
         *(f"/result/{i}" for i in range(1, 8)), "/returns", "/returns?model=resnet50", "/returns?scenario=t4.yaml",
         "/returns?scenario=t4.yaml&compute=1")
VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, and whether they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_whole_in_both_languages_and_runs_nothing_of_its_own(get: Any, path: str, lang: str) -> None:
    answer = get(path + ("&" if "?" in path else "?") + f"lang={lang}")
    assert answer.status_code == 200
    page = Page(answer.text)
    assert page.all("html")[0]["lang"] == {"en": "en", "zh": "zh-Hans"}[lang]
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("h1")) == 1
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attrs), (tag, attrs)
        for name in ("href", "src", "action"):
            assert (attrs.get(name) or "/").startswith(("/", "#")), (tag, attrs)
    scripts = [s for s in page.all("script") if s.get("type") != "application/json"]
    assert [s["src"] for s in scripts] == ["/static/board.js"]
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["for"] for a in page.all("label")} <= set(ids)


def test_the_list_has_the_newest_first_with_its_value_and_change(get: Any) -> None:
    text = unescape(get("/").text)
    assert "models: 11; settings: 13; measurements: 412" in text
    assert text.index("resnet50") < text.index("yolo-nano") < text.index("bert-base")
    assert re.search(r"resnet50.*?effect better\">−3\d %", text, re.DOTALL)


def test_lists_are_paged(tmp_path: Path) -> None:
    with Store(tmp_path / "many.db") as store:
        store.add([history(f"m{i:02d}", [(1, 0.01)])[0] for i in range(45)])
        client = TestClient(application(store), base_url="http://localhost")
        first, last = client.get("/?lang=en"), client.get("/?page=3&lang=en")
        assert first.text.count('href="/model?') == 20
        assert last.text.count('href="/model?') == 5
        assert "41–45 of 45" in last.text
        assert 'rel="next"' in first.text
        assert 'rel="next"' not in last.text
        assert client.get("/?page=-1").status_code == client.get("/?page=99999999999").status_code == 200


def test_a_history_shows_its_changes_its_level_and_what_is_to_come(get: Any) -> None:
    text = get("/model?model=resnet50&lang=en").text
    assert 'class="chart history"' in text
    assert "What changed" in text
    assert "2026-07-15 06:00" in text  # 40 + 35 days after the first
    assert "−37 %" in text
    assert 'class="fan"' in text
    points = json.loads(unescape(re.search(r'class="points">(.*?)</script>', text)[1]))  # type: ignore[index]
    assert len(points) == 120
    assert "1–25 of 120" in text


def test_the_address_holds_metric_setting_range_and_language(get: Any, place: Path) -> None:
    with Store(place, create=False) as store:
        bf16 = next(l for l in lines(store.latest(["resnet50"])) if l.setting.precision == "bf16")
    address = f"/model?model=resnet50&metric=throughput&setting={bf16.key}&range=2026-05-10..2026-05-20&lang=zh"
    text = unescape(get(address).text)
    assert "throughput 的历史" in text
    assert "第 1–11 项" not in text  # one page is enough for 11 points
    assert text.count('<tr><th scope="row">2026-05-') == 11
    assert re.search(r'value="' + bf16.key + '" selected', text)
    for other in re.findall(r'href="(/model\?[^"]*metric=latency.p99[^"]*)"', text):
        assert f"setting={bf16.key}" in other
        assert "range=2026-05-10..2026-05-20" in other
        assert "lang=zh" in other


@pytest.mark.parametrize(("path", "status", "said"), [
    ("/nowhere", 404, "There is no such page"),
    ("/model?model=nobody", 404, "No model of this name"),
    ("/model", 404, "No model of this name"),
    ("/result/99", 404, "No result of this number"),
    ("/result/99.json", 404, "There is no such page"),
    ("/results/nothing", 404, "There is no such page"),
    ("/static/secret", 404, "There is no such page"),
    ("/static/..%2fapp.py", 404, "There is no such page"),
    ("/model?model=resnet50&metric=none", 400, "no such metric"),
    ("/model?model=resnet50&setting=none", 400, "no such setting"),
    ("/model?model=resnet50&range=soon", 400, "no range"),
    ("/model?model=resnet50&range=2026-05-03..2026-05-01", 400, "ends before it begins"),
    ("/returns?scenario=other.yaml", 404, "There is no such page"),
    ("/returns?scenario=t4.yaml&rate=many", 400, "rate is no number"),
])
def test_what_is_not_there_is_said_on_a_page(get: Any, path: str, status: int, said: str) -> None:
    answer = get(path, accept_language="en")
    assert answer.status_code == status
    assert said in answer.text
    Page(answer.text)


def test_a_fault_of_the_board_s_own_tells_the_browser_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret of the machine")

    with Store(place, create=False) as store:
        monkeypatch.setattr(store, "models", broken)
        answer = TestClient(application(store), base_url="http://localhost", raise_server_exceptions=False).get("/")
    assert answer.status_code == 500
    assert "could not make this page" in answer.text
    assert "secret" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_range_without_points_is_said(get: Any) -> None:
    assert "No measurement lies in this range" in get("/model?model=resnet50&range=2020-01-01..2020-02-01&lang=en").text


def test_the_language_is_the_address_s_else_the_browser_s_else_the_command_line_s(get: Any) -> None:
    def lang(path: str, accepted: str = "") -> str:
        return re.search(r'<html lang="(\w+)', get(path, accept_language=accepted).text)[1]  # type: ignore[index]

    assert lang("/") == "en"
    assert lang("/", "zh-CN,zh;q=0.9,en;q=0.8") == "zh"
    assert lang("/", "de, en;q=0.7, zh;q=0.3") == "en"
    assert lang("/", "zh;q=0, fr;q=x") == "en"
    assert lang("/?lang=zh", "en") == "zh"
    assert lang("/?lang=xx", "zh") == "zh"


def test_texts_have_the_same_fields_in_both_languages() -> None:
    for name, (en, zh) in words.TEXTS.items():
        assert set(re.findall(r"{(\w+)}", en)) == set(re.findall(r"{(\w+)}", zh)), name


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_mean_harm_are_text(get: Any, name: str) -> None:
    model, part = urlencode({"model": name}), urlencode({"q": name})
    for path in ("/", f"/model?{model}", f"/?{part}", "/results/failure", f"/returns?{model}"):
        answer = get(path)
        page = Page(answer.text)
        assert answer.status_code == 200
        assert not page.all("img")
        assert "<b>bold" not in answer.text
        assert "\u202e" not in answer.text
        assert 'href="javascript' not in answer.text
        assert len(page.all("script")) == len([s for s in page.all("script") if s.get("src") or s.get("type")])
        assert ">49<" not in answer.text


def test_results_are_shown_as_what_they_are(get: Any) -> None:
    rows = {n: unescape(get(f"/result/{n}?lang=en").text) for n in range(1, 8)}
    assert "P99 42 ms (up 20 %)" in rows[1]
    assert "latency.p50: the last 60 values and the new one, 14.1 ms" in rows[1]
    assert "About 1.8 more effective optimizations" in rows[2]
    assert "78 %" in rows[2]
    assert "Cash flow" in rows[3]
    assert "NonMaxSuppression_4" in rows[4]
    assert "whet bf16" in rows[5]
    assert "of a whet to come" in rows[7]  # a schema that this whet does not know: the outline
    assert get("/result/1.json").json()["state"] == "not held"
    listed = unescape(get("/results/gate?lang=zh").text)
    assert "未达成" in listed
    assert "resnet50" in listed


def test_a_model_s_page_leads_to_what_was_decided_of_it(get: Any) -> None:
    assert get("/model?model=resnet50").text.count('href="/result/') == 5


def test_returns_are_those_of_whet_roi(get: Any, scenario: Path) -> None:
    found = get("/api/return?scenario=t4.yaml&labour=800&rate=40&lang=en").json()
    ours = roi.evaluate(read(scenario, {"labour.cost": 800, "load.rate": 40.0}),
                        roi.Settings(draws=DRAWS, requests=REQUESTS))
    assert found["result"]["returned"]["npv"] == ours.returned.npv  # type: ignore[union-attr]
    assert found["result"]["labour"] == 800
    assert found["status"].startswith("Pays.")
    Page(found["html"])


def test_a_return_of_two_settings_of_the_store(get: Any) -> None:
    page = Page(get("/returns?model=resnet50").text)
    assert [o for o in page.all("option") if "selected" in o]
    named = {i["name"] for i in page.all("input") if i.get("type") == "number"}
    assert named == {"rate", "p99", "price_before", "price_after", "labour", "growth", "horizon", "discount"}
    found = get("/api/return?model=resnet50&price_before=2&price_after=0.5&rate=60").json()["result"]
    assert [o["basis"] for o in found["options"]] == ["measured", "measured"]
    assert found["options"][0]["price_per_hour"] == 2.0
    assert found["returned"]["saving"] > 0


@pytest.mark.parametrize(("query", "said"), [
    ("scenario=t4.yaml&rate=-1", "field of the scenario does not fit"),
    ("scenario=t4.yaml&horizon=1.5", "field of the scenario does not fit"),
    ("scenario=t4.yaml&p99=nan", "p99 is nan"),
    ("scenario=t4.yaml&p99=inf", "p99 is inf"),
    ("scenario=t4.yaml&labour=1e300", "figures here are up to 1e+12"),
    ("scenario=t4.yaml&rate=x", "no number"),
    ("scenario=t4.yaml&rate=1e300", "whet roi takes larger ones"),
])
def test_figures_that_cannot_be_are_a_sentence(get: Any, query: str, said: str) -> None:
    answer = get(f"/api/return?{query}")
    assert answer.status_code == 422
    assert said in answer.json()["error"]
    Page(answer.json()["html"])


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    with Store(tmp_path / "empty.db") as store:
        text = TestClient(application(store), base_url="http://localhost").get("/?lang=en").text
    assert "Nothing has been measured yet" in text
    assert "whet record out.json" in text


def test_a_store_that_others_hold_is_a_page_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "held.db"
    with Store(path) as store:
        store.add(history("m", [(2, 0.01)]))
    with Store(path, create=False, timeout=0.01) as store:
        store.close()  # connections; new ones are made when asked
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        answer = TestClient(application(store), base_url="http://localhost").get("/?lang=en")
    assert answer.status_code == 503
    assert "the store is busy" in answer.text
    holder.close()


def test_a_store_that_breaks_is_a_page_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "broken.db"
    with Store(path) as store:
        store.add(history("m", [(2, 0.01)]))
    with Store(path, create=False) as store:
        store.close()
        path.write_bytes(b"no database at all" * 1000)
        answer = TestClient(application(store), base_url="http://localhost").get("/?lang=en")
    assert answer.status_code == 503
    assert "not a measurement store, or a damaged one" in answer.text


def test_the_python_of_its_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    docs = (Path(__file__).parents[2] / "docs" / "board.md").read_text("utf-8")
    for block in re.findall(r"```python\n(.*?)```", docs, re.DOTALL):
        exec(compile(block, "docs/board.md", "exec"), {})
    assert capsys.readouterr().out == "200\n"
    for link in re.findall(r"\]\(([^)#]+)", docs):
        assert (Path(__file__).parents[2] / "docs" / link).exists(), link


def test_values_and_dates_at_the_ends_of_what_there_is(tmp_path: Path) -> None:
    records = [measurement(model=Model(name="huge"), date=f"2026-01-0{i + 1}T00:00:00+00:00",
                           figures={"x": Figure(value=x, low=x, high=1.7e308)})
               for i, x in enumerate([1.7e308, -1.7e308, 1e300, 5e-324, 0.0, -1.0, 1.0])]
    records += [measurement(model=Model(name="ancient"), date=date, figures={"x": Figure(value=1)})
                for date in ("0001-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00")]
    records += [measurement(model=Model(name="bare"))]
    with Store(tmp_path / "odd.db") as store:
        store.add(records)
        client = TestClient(application(store), base_url="http://localhost")
        for path in ("/", "/model?model=huge", "/model?model=huge&range=30d", "/model?model=ancient",
                     "/model?model=ancient&range=0001-01-01..9999-12-31", "/model?model=ancient&range=1y"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert not re.search(r'="[^"]*\b(nan|inf)\b', answer.text)
        assert client.get("/model?model=bare").status_code == 404


def test_models_that_differ_in_their_hash_alone_are_one_line(tmp_path: Path) -> None:
    with Store(tmp_path / "weekly.db") as store:
        store.add([msgspec.structs.replace(r, model=msgspec.structs.replace(r.model, sha256=f"{i:064x}"))
                   for i, r in enumerate(history("weekly", [(10, 0.02), (10, 0.01)]))])
        (line,) = [l for l in lines(store.latest(["weekly"])) if l.metric == "latency.p50"]
        assert len(line.ids) == 20
        assert line.setting.sha256 == ""
        found = story(store.marks(line.ids))
    assert [s.start for s in found.segments] == [0, 10]
    assert setting_key(line.setting) == line.key
    assert found.when(0) == START
