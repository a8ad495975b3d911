"""A process compiles a kernel once: what it needs is the same code for the same instruction set, not the same build."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import whet
from whet import demo
from whet.targets.cpu import target
from whet.targets.cpu.compile import to_object
from whet.targets.cpu.isa import AVX2, Isa, host
from whet.tuning import compiled, tuner
from whet.tuning.cache import TimingCache


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Isa]]:
    """The instruction sets that kernels are compiled for in this process, from nothing."""
    seen: list[Isa] = []

    def compile_(code: str, isa: Isa) -> bytes:
        seen.append(isa)
        return to_object(code, isa)

    monkeypatch.setattr(compiled, "_objects", type(compiled._objects)())
    monkeypatch.setattr(target, "to_object", compile_)
    return seen


def build(isa: str = "host") -> whet.Plan:
    return whet.build(demo.model_bytes(), opt_level=0, timing_cache=TimingCache(), threads=2, isa=isa)


def test_a_second_build_compiles_nothing_and_is_the_same(asked: list[Isa]) -> None:
    first = build()
    count = len(asked)
    assert count > 5
    assert build().hash == first.hash
    assert len(asked) == count


@pytest.mark.skipif(host().arch != "x86_64" or host().name == "avx2", reason="needs two instruction sets")
def test_another_instruction_set_is_compiled_anew(asked: list[Isa]) -> None:
    build()
    build("avx2")
    assert {isa.name for isa in asked} == {host().name, "avx2"}
    assert compiled.find(AVX2, "define void @f()") is None


def test_children_compile_much_and_what_they_made_is_kept(asked: list[Isa], monkeypatch: pytest.MonkeyPatch) -> None:
    here = build().hash
    monkeypatch.setattr(compiled, "_objects", type(compiled._objects)())
    monkeypatch.setattr(tuner, "FEW", 0)
    asked.clear()
    assert build().hash == here, "whoever compiles it"
    assert build().hash == here
    assert not asked


def test_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_objects", type(compiled._objects)())
    monkeypatch.setattr(compiled, "MOST", 2)
    for code in ("a", "b"):
        compiled.keep(AVX2, code, code.encode())
    assert compiled.find(AVX2, "a") == b"a"
    compiled.keep(AVX2, "c", b"c")
    assert [compiled.find(AVX2, code) for code in "abc"] == [b"a", None, b"c"]
