"""A headless Chromium that is driven through a pipe: the Chrome DevTools Protocol, JSON between zero bytes.

Nothing has to be installed for it but a Chromium: no driver of its own version (Selenium), no browser download and no
Node (Playwright), no port and no websocket. What is needed of the protocol is a page, its script and its network.
https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60.0  # seconds for an answer: machines of tests are busy


def find() -> str | None:
    """A Chromium on this machine: `$WHET_CHROMIUM`, one on the path, or one that Playwright has downloaded."""
    if named := os.environ.get("WHET_CHROMIUM"):
        return named
    for name in NAMES:
        if found := shutil.which(name):
            return found
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    return next((str(p) for p in sorted(cache.glob("chromium*/chrome-linux*/*"))
                 if p.name in ("chrome", "headless_shell") and os.access(p, os.X_OK)), None)


class Chromium:
    """The process, and what it says. Use `chromium()`."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._rest, self._number = b"", 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **values: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer; events that come before are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": values}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            for answer in self._messages(deadline):
                if answer.get("id") == self._number:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error'].get('message')}")
                    return answer.get("result", {})
                self.events.append(answer)

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event that is wanted, of those kept and those to come."""
        deadline, seen = time.monotonic() + PATIENCE, 0
        while True:
            for event in self.events[seen:]:
                if wanted(event):
                    return event
            seen = len(self.events)
            self.events += self._messages(deadline)

    def page(self, **screen: Any) -> Page:
        """A new tab in a profile of its own: nothing is cached, nothing remembered."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, context, **screen)

    def _messages(self, deadline: float) -> list[dict[str, Any]]:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._read], [], [], left)[0]:
            raise TimeoutError("Chromium does not answer")
        data = os.read(self._read, 1 << 20)
        if not data:
            raise RuntimeError("Chromium has ended")
        *whole, self._rest = (self._rest + data).split(b"\0")
        return [json.loads(part) for part in whole]


class Page:
    """A tab."""

    def __init__(self, browser: Chromium, session: str, context: str, width: int = 1280, height: int = 900,
                 dark: bool = False, mobile: bool = False, lang: str = "en", reduced: bool = False) -> None:
        self.browser, self._session, self._context = browser, session, context
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Network.setExtraHTTPHeaders", headers={"Accept-Language": lang})
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=mobile,
                  deviceScaleFactor=2 if mobile else 1)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if reduced else "no-preference"}])

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """Ask this tab for something."""
        return self.browser.call(method, self._session, **values)

    def open(self, url: str) -> None:
        """Load an address, and wait until it is loaded."""
        self.clear()
        self.call("Page.navigate", url=url)
        self.loaded()

    def loaded(self) -> None:
        """Wait for the load event of what is loading."""
        self.browser.wait(lambda e: e.get("sessionId") == self._session and e["method"] == "Page.loadEventFired")

    def clear(self) -> None:
        """Forget what this tab has said."""
        self.browser.events[:] = [e for e in self.browser.events if e.get("sessionId") != self._session]

    def run(self, script: str) -> Any:
        """The value of an expression; of a promise, what it brings."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"].get("exception", {}).get("description", script)))
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true: looked at in each frame of the browser's own."""
        self.run(f"new Promise((done) => {{ const look = () => ({condition}) ? done(true)"
                 " : requestAnimationFrame(look); look(); })")

    def press(self, key: str, text: str = "") -> None:
        """A key, down and up."""
        code = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39, "End": 35, "Home": 36}.get(key, 0)
        more = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def requests(self) -> list[str]:
        """Addresses that this tab has asked for since it was cleared."""
        return [e["params"]["request"]["url"] for e in self.browser.events
                if e.get("sessionId") == self._session and e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """What the console says: errors of scripts, what the content security policy refused."""
        out = []
        for e in self.browser.events:
            if e.get("sessionId") == self._session:
                if e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] in ("error", "warning"):
                    out.append(e["params"]["entry"]["text"])
                elif e["method"] == "Runtime.exceptionThrown":
                    out.append(str(e["params"]["exceptionDetails"]))
        return out

    def picture(self, file: Path, full: bool = True) -> None:
        """A PNG of the page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"]
        file.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """Close the tab and forget its profile."""
        self.browser.call("Target.disposeBrowserContext", browserContextId=self._context)
        self.clear()


@contextmanager
def chromium(program: str) -> Iterator[Chromium]:
    """A Chromium, gone at the end. Its own services that would use the network are off."""
    to_browser, from_us = (_high(end) for end in os.pipe())
    to_us, from_browser = (_high(end) for end in os.pipe())
    with tempfile.TemporaryDirectory(prefix="whet-chromium-", ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", "--disable-sync",
                   "--no-default-browser-check", "--disable-extensions", "--disable-dev-shm-usage", "--disable-gpu",
                   "--hide-scrollbars", "--mute-audio"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium has no sandbox for root
            options.append("--no-sandbox")
        nothing = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in (0, 1, 2)]
        ends = [(os.POSIX_SPAWN_DUP2, to_browser, 3), (os.POSIX_SPAWN_DUP2, from_browser, 4)]  # where it looks for them
        process = os.posix_spawn(program, [program, *options], os.environ, file_actions=[*nothing, *ends])
        os.close(to_browser)
        os.close(from_browser)
        browser = Chromium(to_us, from_us)
        try:
            yield browser
        finally:
            try:
                browser.call("Browser.close")
            except (OSError, RuntimeError, TimeoutError):
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(to_us)
            os.close(from_us)


def _high(descriptor: int) -> int:
    """The same end of a pipe under a number that is out of the way of 3 and 4; children do not inherit it."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved
