"""The board in a headless Chromium: nothing leaves the machine, it fits a phone, keyboards and screen readers get
everywhere, and sliders, addresses and the back button agree.

The rules of accessibility are axe-core's (https://github.com/dequelabs/axe-core), from a package that is installed for
tests alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import browser
from whet.board import application
from whet.board.server import address, bind
from whet.store import Store

pytestmark = pytest.mark.slow
PAGES = ("/", "/model?model=resnet50", "/returns?scenario=t4.yaml", "/result/1", "/result/2", "/result/6",
         "/results/failure", "/nowhere")
COMPUTED = "document.querySelector('#returned .verdict') && !document.querySelector('.waiting')"


@pytest.fixture(scope="module")
def base(place: Path, scenario: Path) -> Iterator[str]:
    """The address of a board that runs."""
    import uvicorn

    with Store(place, create=False) as store, bind("127.0.0.1", 0) as bound:
        server = uvicorn.Server(uvicorn.Config(application(store, [scenario]), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        yield address(bound, "127.0.0.1")[:-1]
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Chromium]:
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium, or $WHET_CHROMIUM")
    with browser.chromium(program) as made:
        yield made


@pytest.fixture(scope="module")
def axe() -> str:
    for package in ("axe_playwright_python", "axe_core_python"):  # the first has the newer axe
        if (spec := find_spec(package)) is not None and spec.origin:
            return (Path(spec.origin).parent / "axe.min.js").read_text("utf-8")
    pytest.skip("no axe-core here: pip install axe-core-python")


@pytest.mark.parametrize(("look", "lang"), [({"width": 360, "height": 740, "mobile": True}, "en"),
                                            ({"dark": True}, "zh-CN")], ids=["phone", "dark"])
def test_pages_keep_the_rules_ask_nobody_else_and_fit(chromium: browser.Chromium, axe: str, base: str,
                                                      look: dict[str, Any], lang: str) -> None:
    page = chromium.page(**look, lang=lang, reduced=True)  # no colour on its way to another
    for path in PAGES:
        page.open(base + path)
        if path.startswith("/returns"):
            page.until(COMPUTED)
        assert [u for u in page.requests() if not u.startswith(base)] == []
        assert [c for c in page.complaints() if "404" not in c or path != "/nowhere"] == []
        assert page.run("document.documentElement.scrollWidth") <= page.run("innerWidth"), path
        assert page.run("document.documentElement.lang") == ("zh-Hans" if lang == "zh-CN" else "en")
        page.run(axe + "\n;0")
        found = page.run("axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations.map((v) => "
                         "v.id + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary).join(' | ')))")
        assert found == [], path
    page.close()


def test_a_name_that_means_harm_does_none(chromium: browser.Chromium, base: str) -> None:
    page = chromium.page()
    for path in ("/", "/result/6", "/model?model=%3Cscript%3Edocument.title%3D%22owned%22%3C%2Fscript%3E"):
        page.open(base + path)
        assert page.run("document.title") != "owned"
        assert page.complaints() == []
        assert [u for u in page.requests() if not u.startswith(base)] == []
    page.close()


def test_sliders_the_address_and_the_back_button_agree(chromium: browser.Chromium, base: str) -> None:
    page = chromium.page(lang="en")
    page.open(base + "/returns?scenario=t4.yaml")
    page.until(COMPUTED)
    first = page.run("document.querySelector('#returned .tiles').textContent")
    page.run("document.querySelector('[data-for=labour]').focus()")
    page.press("Home")  # to the least: 0
    page.until("location.search.includes('labour=0')")
    page.until("document.getElementById('status').textContent !== '' && " + COMPUTED)
    page.until(f"document.querySelector('#returned .tiles').textContent !== {first!r}")
    assert page.run("document.getElementById('labour').value") == "0"
    assert page.run("document.getElementById('status').textContent").startswith("Pays.")
    moved = page.run("document.querySelector('#returned .tiles').textContent")
    page.run("history.back()")
    page.until("!location.search.includes('labour')")
    page.until(f"document.querySelector('#returned .tiles').textContent === {first!r}")
    assert page.run("document.getElementById('labour').value") == "5000"
    page.open(base + "/returns?scenario=t4.yaml&labour=0")  # the address alone brings it back
    page.until(COMPUTED)
    assert page.run("document.querySelector('#returned .tiles').textContent") == moved
    page.close()


def test_what_cannot_be_is_said_beside_the_sliders(chromium: browser.Chromium, base: str) -> None:
    page = chromium.page(lang="en")
    page.open(base + "/returns?scenario=t4.yaml&rate=-5")
    page.until("document.querySelector('#returned .fault') && !document.querySelector('.waiting')")
    assert "does not fit" in page.run("document.getElementById('status').textContent")
    page.close()


def test_without_scripts_all_is_there(chromium: browser.Chromium, base: str) -> None:
    page = chromium.page(lang="en")
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.open(base + "/returns?scenario=t4.yaml&labour=0&compute=1")
    assert page.run("document.querySelectorAll('#returned .tiles dd').length") == 4
    assert page.run("getComputedStyle(document.querySelector('#sliders button')).display") != "none"
    page.open(base + "/model?model=resnet50")
    assert page.run("document.querySelector('.scrub').hidden")
    assert page.run("document.querySelectorAll('.history svg path').length") > 3
    page.close()


def test_keys_lead_everywhere_and_the_focus_is_seen(chromium: browser.Chromium, base: str) -> None:
    page = chromium.page(lang="en", reduced=True)
    page.open(base + "/model?model=resnet50")
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    assert page.run("document.activeElement.getBoundingClientRect().top") >= 0
    page.press("Enter", "\r")
    page.until("document.activeElement.id === 'content'")
    order = []
    for _ in range(40):
        page.press("Tab")
        order.append(page.run("document.activeElement.id || document.activeElement.textContent.slice(0, 20)"))
        outline = page.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", order[-1]
        if order[-1] == "scrub":
            break
    assert order[0] == "latency.mean"
    assert "setting" in order
    said = page.run("document.querySelector('.scrub output').textContent")
    page.press("ArrowLeft")
    page.until(f"document.querySelector('.scrub output').textContent !== {said!r}")
    assert page.run("document.activeElement.getAttribute('aria-valuetext')").startswith("2026-08-27")
    assert page.run("document.querySelector('.cursor').getAttribute('visibility')") == "visible"
    assert page.run("getComputedStyle(document.querySelector('a')).transitionDuration") in ("0s", "")
    page.close()


def test_the_package_has_its_own_files() -> None:
    folder = resources.files("whet.board") / "static"
    for name in ("board.css", "board.js", "icon.svg"):
        text = (folder / name).read_text("utf-8")
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "@import" not in text
