"""The drawing of whet inspect --html: its layout, its data, and that it needs nothing from outside."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.lint_models import hosted, model, node, weight
from whet.cli.inspect import picture
from whet.report.graph import Node, Picture, data, page, shorten
from whet.report.graph_layout import GAP, ROW, layout
from whet.tools.inspect import inspect


class Page(HTMLParser):
    """Elements with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes what is not open"

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(text)


def edges_of(n: int, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return sorted({(min(a, b) % n, max(a, b) % n) for a, b in pairs if min(a, b) % n < max(a, b) % n})


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=80))
def test_nodes_never_overlap_and_edges_go_down(n: int, pairs: list[tuple[int, int]]) -> None:
    edges = edges_of(n, pairs)
    rng = np.random.default_rng(n)
    widths = rng.integers(60, 250, n).astype(float).tolist()
    d = layout(widths, edges)
    for a, b in edges:
        assert d.y[a] < d.y[b]
    rows: dict[float, list[int]] = {}
    for i in range(n):
        rows.setdefault(d.y[i], []).append(i)
    for row in rows.values():
        row.sort(key=lambda i: d.x[i])
        for a, b in pairwise(row):
            assert d.x[b] - widths[b] / 2 - d.x[a] - widths[a] / 2 >= GAP - 1e-6
    assert all(x - w / 2 + 1e-6 >= 0 and x + w / 2 <= d.width + 1e-6 for x, w in zip(d.x, widths))
    for (a, b), bends in zip(edges, d.bends):
        if bends is not None:
            assert len(bends) == round((d.y[b] - d.y[a]) / ROW) - 1


def test_a_chain_is_a_straight_line_and_a_diamond_is_symmetric() -> None:
    chain = layout([100.0] * 5, [(i, i + 1) for i in range(4)])
    assert len({round(x, 6) for x in chain.x}) == 1
    diamond = layout([100.0] * 4, [(0, 1), (0, 2), (1, 3), (2, 3)])
    assert diamond.x[0] == pytest.approx(diamond.x[3])
    assert diamond.x[1] + diamond.x[2] == pytest.approx(2 * diamond.x[0])


def test_edges_that_point_back_are_refused() -> None:
    with pytest.raises(ValueError, match="onwards"):
        layout([1.0, 1.0], [(1, 0)])


def test_inputs_stand_before_what_reads_them_first() -> None:
    d = layout([10.0] * 5, [(0, 2), (2, 3), (3, 4), (1, 4)], low=[0, 1])
    assert d.y[1] == d.y[3]


def large(n: int) -> Picture:
    """A network of n layers with residual edges and a mask that all read."""
    nodes = [Node("x", "input"), Node("mask", "input")]
    nodes += [Node(f"Op layer_{i}", "matmul" if i % 3 else "attention", f"layer_{i}", 1e-6 * (1 + i % 7), 0.5, "fp32",
                   [("reads", "f32[1x2x3]"), ("tactic", "gemm")]) for i in range(n)]
    edges = [(0, 2, "x"), *((i, i + 1, f"v{i}") for i in range(2, n + 1)),
             *((i, i + 4, f"v{i}") for i in range(2, n - 3, 5)), *((1, i, "mask") for i in range(2, n + 2, 3) if i > 1)]
    return Picture("large", nodes, edges, [("model", "large")], "measured")


def test_two_thousand_nodes_are_laid_out_within_seconds_and_few_bytes() -> None:
    start = time.perf_counter()
    text = page(large(2000))
    assert time.perf_counter() - start < 10
    assert len(text) < 3_000_000


def check_page(text: str, p: Picture) -> dict[str, Any]:
    """The page is well formed, asks nothing of the network, and holds what the picture says."""
    assert text.startswith("<!doctype html>")
    found = Page(text)
    assert found.open == []
    assert len({a["id"] for _, a in found.elements if "id" in a}) == sum("id" in a for _, a in found.elements)
    policy = next(a["content"] for t, a in found.elements if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    code = re.sub(r'"data" type.*?</script>', "", text, flags=re.S)
    assert not re.search(r"https?:|//[a-z0-9.-]+\.[a-z]{2}|@import|url\((?!#)", code)
    assert not [a for _, a in found.elements if "src" in a or "href" in a]
    held = json.loads(found.scripts[0])
    assert [n["n"] for n in held["nodes"]] == [n.name for n in p.nodes]
    assert [(e[0], e[1], e[2]) for e in held["edges"]] == list(p.edges)
    assert sum(n.get("p", 0) for n in held["nodes"]) == pytest.approx(1) or not held["total"]
    for e in held["edges"]:
        assert held["nodes"][e[0]]["y"] < held["nodes"][e[1]]["y"]
    return held


def test_the_page_of_a_model_holds_its_graph(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a", "conv", pads=[1, 1, 1, 1]), node("Relu", "a", "b"), hosted("s", "h", "counts"),
             node("Add", "b x", "y", "residual")]
    m = model(nodes, {"x": [1, 4, 8, 8], "s": [12]}, ["y", "h"], {"w": weight(4, 4, 3, 3)})
    onnx.save(m, tmp_path / "m.onnx")
    p = picture(inspect(tmp_path / "m.onnx"))
    held = check_page(page(p), p)
    kinds = [n["k"] for n in held["nodes"]]
    assert kinds.count("input") == 2
    assert kinds.count("output") == 2
    assert "conv" in kinds
    assert "host" in kinds
    conv = held["nodes"][kinds.index("conv")]
    assert dict(conv["d"])["bytes"]
    assert "relu" in dict(conv["d"])["computes"]


def test_the_page_of_a_large_graph_is_well_formed() -> None:
    p = large(300)
    check_page(page(p), p)


def test_names_cannot_break_out_of_the_page() -> None:
    evil = '</script><script>alert(1)</script>{{data}}"\u2028<!--'
    p = Picture(evil, [Node(evil, "input"), Node(evil, "conv", evil, 1e-6, details=[("why", evil)])], [(0, 1, evil)],
                [(evil, evil)], note=evil)
    held = check_page(page(p), p)
    assert held["title"] == evil
    assert page(p).count("<script") == 2


def test_an_empty_graph_has_a_page() -> None:
    p = Picture("empty", [], [])
    check_page(page(p), p)


def test_long_names_keep_both_ends() -> None:
    assert shorten("encoder.layer.11.attention.output.dense", 20) == "encoder.l…tput.dense"
    assert len(shorten("x" * 50, 17)) == 17
    assert shorten("short", 17) == "short"
    assert data(Picture("t", [Node("n" * 99, "conv")], []))["nodes"][0]["n"] == "n" * 99
