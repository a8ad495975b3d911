"""All tactics together: what the CPU's take, the GPU's take, and the kernels' text is whole."""

from __future__ import annotations

import ast

import interpreted
import msgspec
import numpy as np
import pytest
from random_regions import N, Random, sizes

from whet.ir.region import Tensor
from whet.ir.symbolic import evaluate
from whet.targets.base import Packed, Work
from whet.targets.cpu import TACTICS as CPU
from whet.targets.cpu.isa import AVX512
from whet.targets.cuda import TACTICS, shapes
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.kernel import Recipe


def test_every_kind_of_the_cpu_is_one_of_the_gpu() -> None:
    assert CPU.keys() <= TACTICS.keys()


def test_names_are_unique_in_a_kind() -> None:
    for tactics in TACTICS.values():
        assert len({t.name for t in tactics}) == len(tactics)


def shadowed(recipe: Recipe) -> set[str]:
    """Parameters of a kernel that it gives another meaning."""
    (kernel,) = (f for f in ast.parse(recipe.text).body if isinstance(f, ast.FunctionDef) and f.name == recipe.name)
    targets = [t for node in ast.walk(kernel) for t in
               (node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.For) else [])]
    assigned = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return assigned & {a.arg for a in kernel.args.args}


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
                assert not shadowed(recipe), (t.name, seed)
                assert machine.has_fp8 or "fp8e4nv" not in step.kernel.code
                assert machine.has_fp8 or "float8e4nv" not in recipe.text, (t.name, seed)


def random_values(t: Tensor, env: dict[str, int], seed: int) -> np.ndarray:
    """Contents that agree where strides are 0; integers, which may be indices, are 0 or 1."""
    shape = [evaluate(d, env) for d in t.shape]
    small = [1 if isinstance(s, int) and s == 0 else n for n, s in zip(shape, t.strides)]
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(small) if t.dtype.is_float else rng.integers(0, 2, small)
    return np.array(np.broadcast_to(a.astype(np.float32).astype(t.dtype.np), shape))


@pytest.mark.parametrize("kind", sorted(TACTICS))
def test_offsets_of_64_bits_lead_to_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, env = typical((9, 0)), {"n": 3}
    r = Random(1, (1, 2, N)).region(kind)
    arrays = [random_values(t, env, i) for i, t in enumerate(r.inputs)]
    for t in TACTICS[kind]:
        if t.applies(r, machine):
            continue
        params = next(iter(t.space(r, machine, 1)))
        with np.errstate(all="ignore"):
            want = interpreted.run(r, t.implement(r, params, machine, 1), arrays, env)
            with monkeypatch.context() as m:
                m.setattr(shapes, "REACH", -1)
                made = t.implement(r, params, machine, 1)
                got = interpreted.run(r, made, arrays, env)
        assert kind in ("dims", "recurrent") or any("int64" in step.kernel.code for step in made.steps)
        for g, w in zip(got, want, strict=True):
            assert g.tobytes() == w.tobytes(), t.name
