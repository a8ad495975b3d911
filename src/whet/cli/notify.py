"""Telling somebody: a webhook (POST of JSON), or a command that gets the text on stdin, as one that sends mail.

Whatever happens here changes no verdict: what could not be told is a sentence, and the exit code stays as it is.
"""

from __future__ import annotations

import http.client
import json
import shlex
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from whet.errors import InputError

SECONDS = 10.0  # of one try, and of the command
TRIES = 3
PAUSE = 0.5  # seconds before the second try, doubled before the third
MOST_BYTES = 256 << 10  # of a body
MOST_ANSWER = 4096


def check(webhook: str, command: str) -> None:
    """InputError for a URL or a command that cannot be: known before the work whose result they are told."""
    if webhook:
        _parts(webhook)
    if command:
        words(command)


def tell(webhook: str, command: str, text: str, body: Mapping[str, Any], *,
         sleep: Callable[[float], None] = time.sleep) -> list[str]:
    """Send a text, and with it plain data, to whoever is named; a sentence for each that could not be told.

    A webhook gets `{"text": ..., ...body}`; the command gets the text on stdin. No sentence holds the URL's path or
    query, which often are the secret.
    """
    failed = []
    if webhook:
        if why := _post(webhook, text, body, sleep):
            failed.append(f"the webhook at {_parts(webhook)[1]} was not told: {why}")
    if command:
        if why := _run(command, text):
            failed.append(f"the command {words(command)[0]!r} did not tell: {why}")
    return failed


def _parts(url: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port, and what is asked for. No message repeats the URL."""
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError as e:
        raise InputError("the webhook is no URL", do="give https://host/path") from e
    if found.scheme not in ("http", "https") or not found.hostname:
        raise InputError("the webhook is no URL of http or https", do="give https://host/path")
    if found.username is not None or found.password is not None:
        raise InputError("the webhook's URL holds a user's name", do="give a URL whose secret is in its path")
    target = (found.path or "/") + (f"?{found.query}" if found.query else "")
    if any(c.isspace() or ord(c) < 33 or ord(c) > 126 for c in url):
        raise InputError("the webhook's URL holds blanks or characters beyond ASCII", do="encode them (%20)")
    return found.scheme, found.hostname, port, target


def words(command: str) -> list[str]:
    """The words of a command as a shell would split it. InputError for none, or an open quote."""
    try:
        found = shlex.split(command)
    except ValueError as e:
        raise InputError(f"not a command: {command[:200]!r}", why=str(e), do="quote it as for a shell") from e
    if not found:
        raise InputError("an empty command", do="name one")
    return found


def _post(url: str, text: str, body: Mapping[str, Any], sleep: Callable[[float], None]) -> str:
    """Nothing if it was taken, else why not. Redirects are not followed: whoever answers so is not the webhook."""
    data = json.dumps({"text": text, **body}).encode()
    if len(data) > MOST_BYTES:
        data = json.dumps({"text": text[:MOST_BYTES // 8], "truncated": True}).encode()
    why = ""
    for i in range(TRIES):
        if i:
            sleep(PAUSE * 2**(i - 1))
        try:
            status = _once(url, data)
        except (OSError, http.client.HTTPException) as e:
            why = _why(e)
            continue
        if 200 <= status < 300:
            return ""
        why = f"it answers {status}"
        if status < 500 and status != 429:
            return why
    return f"{why} ({TRIES} tries)"


def _once(url: str, data: bytes) -> int:
    scheme, host, port, target = _parts(url)
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=SECONDS)
    try:
        connection.request("POST", target, data, {"Content-Type": "application/json", "User-Agent": "whet"})
        answer = connection.getresponse()
        answer.read(MOST_ANSWER)
        return answer.status
    finally:
        connection.close()


def _why(e: Exception) -> str:
    if isinstance(e, TimeoutError):
        return f"no answer in {SECONDS:g} s"
    if isinstance(e, socket.gaierror):
        return "its host is not known"
    if isinstance(e, ssl.SSLError):
        return f"its certificate or encryption is refused ({e.reason or type(e).__name__})"
    if isinstance(e, OSError):
        return e.strerror or type(e).__name__
    return f"its answer is no HTTP ({type(e).__name__})"


def _run(command: str, text: str) -> str:
    try:
        done = subprocess.run(words(command), input=text.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"it has not ended after {SECONDS:g} s"
    except (OSError, ValueError) as e:
        return getattr(e, "strerror", None) or str(e)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return f"it ended with {done.returncode}" + (f" ({said[-1][:200]})" if said else "")
    return ""
