"""All tactics together: what the CPU's take, the GPU's take, and the kernels' text is whole."""

from __future__ import annotations

import ast

import msgspec
import pytest
from random_regions import Random, sizes

from whet.ir.symbolic import evaluate
from whet.targets.base import Packed, Work
from whet.targets.cpu import TACTICS as CPU
from whet.targets.cpu.isa import AVX512
from whet.targets.cuda import TACTICS
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.kernel import Recipe


def test_every_kind_of_the_cpu_is_one_of_the_gpu() -> None:
    assert CPU.keys() <= TACTICS.keys()


def test_names_are_unique_in_a_kind() -> None:
    for tactics in TACTICS.values():
        assert len({t.name for t in tactics}) == len(tactics)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=str)
@pytest.mark.parametrize("kind", sorted(TACTICS))
def test_regions_that_the_cpu_takes_the_gpu_takes(kind: str, capability: tuple[int, int]) -> None:
    machine = typical(capability)
    for seed in range(20):
        r = Random(seed).region(kind)
        taking = [t for t in TACTICS[kind] if not t.applies(r, machine)]
        if all(t.applies(r, AVX512) for t in CPU.get(kind, ())) and not taking:
            continue
        assert taking, (seed, r.describe(), [t.applies(r, machine) for t in TACTICS[kind]])
        for t in taking:
            params = next(iter(t.space(r, machine, 1)))
            assert t.cost(r, params, machine, 1) > 0
            made = t.implement(r, params, machine, 1)
            for env in sizes(r):
                room = evaluate(made.workspace, env)
                for step in made.steps:
                    assert 0 <= evaluate(step.tiles, env) < 1 << 31
                    for a in step.args:
                        if isinstance(a, Work):
                            assert 0 <= evaluate(a.offset, env) <= room, (t.name, seed, env)
                        if isinstance(a, Packed):
                            assert a.index < len(made.packs)
            for step in made.steps:
                recipe = msgspec.json.decode(step.kernel.code, type=Recipe)
                ast.parse(recipe.text)
                assert machine.has_fp8 or "fp8e4nv" not in step.kernel.code
                assert machine.has_fp8 or "float8e4nv" not in recipe.text, (t.name, seed)
