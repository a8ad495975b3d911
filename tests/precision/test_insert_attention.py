"""Where attention is quantized, and that plans compute what the inserted graph says."""

import numpy as np
import pytest

import whet
from passes.building import Building, feeds_of, ops, weights
from whet.builder import Builder
from whet.ir.graph import Graph
from whet.ir.interpreter import interpret
from whet.measure.accuracy import relative_l2
from whet.precision.insert import insert, layers
from whet.precision.insert_attention import coded_attention
from whet.precision.methods import Range
from whet.precision.quantizer import Quantizer
from whet.precision.taps import tapped
from whet.quantizing import offer_attention
from whet.targets.cpu.isa import host, named
from whet.targets.cpu.target import CpuTarget
from whet.tuning.cache import TimingCache


def block(joint: bool, v_scale: float = 0.2) -> Graph:
    """Attention over projections of one input: joint, in slices of one product, or each by itself."""
    b = Building("block")
    x = b.input("x", (2, 21, 32))
    parts = [weights(32, 32, seed=i) * s for i, s in enumerate((0.3, 0.2, v_scale))]
    if joint:
        y = b.reshape(b.matmul(x, b.const(np.concatenate(parts, 1))), shape=(2, 21, 6, 16))
        each = [b.slice(y, starts=(0, 0, 2 * i, 0), sizes=(2, 21, 2, 16), steps=(1,) * 4) for i in range(3)]
    else:
        each = [b.reshape(b.matmul(x, b.const(w)), shape=(2, 21, 2, 16)) for w in parts]
    q, k, v = (b.transpose(y, perm=(0, 2, 1, 3)) for y in each)
    y = b.transpose(b.attention(q, k, v, scale=0.25), perm=(0, 2, 1, 3))
    return b.done(b.matmul(b.reshape(y, shape=(2, 21, 32)), b.const(weights(32, 32, seed=5))))


def ranges(g: Graph) -> dict[str, Range]:
    watched, _ = tapped(g)
    return {n: Range(float(a.min()), float(a.max())) for n, a in interpret(watched, feeds_of(watched, 1)).items()}


def builder(isa: str = "host") -> Builder:
    return Builder(CpuTarget(host() if isa == "host" else named(isa), 2), TimingCache.open(None), 0, "fp32",
                   {"fp32", "int8"})


@pytest.mark.parametrize("joint", [True, False])
def test_a_plan_computes_what_the_inserted_graph_says(joint: bool) -> None:
    if not host().amx_int8:
        pytest.skip("no AMX for integers")
    g = block(joint)
    feeds = feeds_of(g, 1)
    real = interpret(g.copy(), feeds)["y0"]
    done = insert(g, ranges(g.copy()), attention=True)
    assert not done.kept
    said = interpret(g.copy(), feeds)["y0"]
    assert 1e-5 < relative_l2(said, real) < 0.1
    plan = builder().plan([g])
    kinds = {l["kind"]: l["precision"] for l in plan.manifest.info["layers"]}
    assert kinds["attention"] == "int8"
    assert relative_l2(whet.load(plan)(feeds)["y0"], real) < 0.1


def test_slices_of_one_product_are_quantized_at_once_each_with_its_scale() -> None:
    g = block(joint=True, v_scale=20.0)
    found = ranges(g.copy())
    insert(g, found, keep=lambda l: "" if l.node.op == "attention" else "not looked at", attention=True)
    assert ops(g)["quantize"] == 1
    scales = [float(v.producer.input(1).data) for n in g.nodes if n.op == "attention" for v in n.inputs]
    assert scales[2] > 20 * max(scales[:2])
    feeds = feeds_of(g, 1)
    assert relative_l2(interpret(g, feeds)["y0"], interpret(block(True, 20.0), feeds)["y0"]) < 0.05


def test_attention_stays_as_it_is_unless_asked_for() -> None:
    g = block(joint=True)
    done = insert(g, ranges(g.copy()))
    assert [r for n, r in done.kept.items()] == ["attention is quantized only within a budget (--max-drop)"]
    assert all(n.compute == "f32" for n in g.nodes)


def test_it_is_no_layer_where_the_cpu_has_no_kernel() -> None:
    g = block(joint=True)
    quantizer = Quantizer(builder("avx2"), [g], ranges(g.copy()))
    offer_attention(builder("avx2"), quantizer)
    name, = (l.name for l in layers(g) if l.node.op == "attention")
    assert quantizer.fixed == {name: "no int8 attention kernel on this CPU"}
    _, done = quantizer.quantized()
    assert done.kept == quantizer.fixed
    assert len(done.quantized) == 2


def test_asking_for_a_kernel_needs_the_shapes_alone() -> None:
    g = block(joint=False)
    node, = (n for n in g.nodes if n.op == "attention")
    assert bool(CpuTarget.of_host(1).accepts(coded_attention(g, node))) == (not host().amx_int8)
