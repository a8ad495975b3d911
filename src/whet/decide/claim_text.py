"""Claims in sentences, English and Chinese: changes in percent, frames per second, products of servers, utilization."""

from __future__ import annotations

import re
from collections.abc import Iterator

from whet.decide.words import Say

_NUMBER = r"(\d+(?:,\d{3})*(?:\.\d+)?)"
_UNIT = r"\s*(?P<{0}>ms|us|µs|s\b|QPS|qps|FPS|fps|req/s|MB|GB|MiB|GiB|%|毫秒|秒)?"
_CHANGE = re.compile(
    rf"(?P<from>from\s+|从\s*)?\$?{_NUMBER}{_UNIT.format('first')}"
    r"\s*(?P<arrow>->|→|to\b|down to|up to|降低?到|降至|升到|提升到|变为|到)\s*"
    rf"\$?{_NUMBER}{_UNIT.format('second')}"
    rf"(?P<between>[^.;。;\d]{{0,60}}?){_NUMBER}\s*(?:%|percent|per cent)(?P<of>\s*(?:of|的))?", re.IGNORECASE)
_FRAMES = re.compile(rf"{_NUMBER}\s*(?P<unit>ms|毫秒)(?P<between>[^.;。;\d]{{0,60}}?){_NUMBER}"
                     r"\s*(?:FPS\b|frames per second|帧)", re.IGNORECASE)
_NEGATED = re.compile(r"cannot|can't|can not|not enough|too slow|never|unable|不能|无法|达不到|不够|不足以",
                      re.IGNORECASE)
_RATE = r"(?:QPS|qps|/s|req/s|requests per second)"
_PRODUCT = re.compile(rf"{_NUMBER}\s*(?:x|×|\*)\s*{_NUMBER}\s*{_RATE}?\s*=\s*{_NUMBER}\s*{_RATE}")
_USED = r"(?:utili[sz]ation|利用率)"
_USE = re.compile(rf"{_USED}\D{{0,20}}?{_NUMBER}\s*(?P<percent>%)?|{_NUMBER}\s*%\s*{_USED}", re.IGNORECASE)
_KNOWN = re.compile(r"grow|unstable|bound|queue|warn|队列|排队|无限|警告", re.IGNORECASE)  # said with what it means
POINT = 1.0  # percentages are rounded to whole points, more or less


def check(text: str) -> Iterator[tuple[str, Say]]:
    """(code, sentence) of every claim of a sentence that does not follow from its own figures."""
    yield from _changes(text)
    yield from _frames(text)
    for m in _PRODUCT.finditer(text):
        a, b, stated = (_value(g) for g in m.groups()[:3])
        if abs(a * b - stated) > 0.015 * max(a * b, stated):
            yield "C108", Say("product", {"a": a, "b": b, "stated": stated, "found": a * b})
    for m in _USE.finditer(text):
        found = m.group(1) or m.group(3)
        share = _value(found) / (100 if m.group("percent") or m.group(3) else 1)
        if 1 <= share <= 10 and not _KNOWN.search(text):
            yield "C101", Say("utilization-said", {"utilization": share})


def _changes(text: str) -> Iterator[tuple[str, Say]]:
    """`800 -> 200 ms is 60 %`: the change is 75 % of the first figure."""
    for m in _CHANGE.finditer(text):
        numbers = [g for g in m.groups() if g and re.fullmatch(_NUMBER, g)]
        first, second, stated = (_value(g) for g in numbers[:3])
        units = (m.group("first"), m.group("second"))
        if first == 0 or (units[0] and units[1] and units[0].lower() != units[1].lower()) or "%" in units:
            continue  # a change of shares is in points; other units would have to be converted
        if m.group("arrow").lower() == "to" and not (m.group("from") or any(units)):
            continue  # `3 to 5`: a range, more often than a change
        if m.group("of"):
            continue  # 300 % of the old, 60 % of all cases: a share of something, not the change
        follows = 100 * abs(second - first) / first
        if abs(stated - follows) > max(POINT, 0.015 * follows):
            yield "C103", Say("percentage", {"first": first, "second": second, "stated": stated, "found": follows})


def _frames(text: str) -> Iterator[tuple[str, Say]]:
    """`15 ms cannot serve 60 FPS`: one after the other, 15 ms make 66.7 frames a second."""
    for m in _FRAMES.finditer(text):
        numbers = [g for g in m.groups() if g and re.fullmatch(_NUMBER, g)]
        milliseconds, frames = _value(numbers[0]), _value(numbers[1])
        if milliseconds == 0 or frames == 0:
            continue
        most = 1000 / milliseconds
        denied = bool(_NEGATED.search(m.group("between")))
        if (denied and frames <= most * 1.005) or (not denied and frames > most * 1.01):
            yield "C104", Say("frames-enough" if denied else "frames-too-many",
                              {"milliseconds": milliseconds, "frames": frames, "found": most})


def _value(text: str) -> float:
    return float(text.replace(",", ""))
