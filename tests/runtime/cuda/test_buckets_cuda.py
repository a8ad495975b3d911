"""Shape buckets on a GPU: built models at random batch sizes, beside the CPU and beside runs at exact shapes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from runtime.cuda.gpu_plans import chain, expected
from targets.cuda.on_device import device, gpu, needs_cuda
from whet.runtime import Pointer
from whet.runtime.cuda.context import CudaContext
from whet.runtime.engine import load_data

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("compilers")]
F, I = TensorProto.FLOAT, TensorProto.INT64
MOST = 37


def model(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], **weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "m", [helper.make_tensor_value_info(*i) for i in inputs],
                              [helper.make_tensor_value_info(*o) for o in outputs],
                              [numpy_helper.from_array(w, n) for n, w in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def pictures(rng: np.random.Generator) -> onnx.ModelProto:
    node = helper.make_node
    return model([node("Conv", ["x", "k"], ["a"], pads=[1, 1, 1, 1]), node("Relu", ["a"], ["b"]),
                  node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]), node("Flatten", ["c"], ["d"]),
                  node("MatMul", ["d", "w"], ["e"]), node("Softmax", ["e"], ["y"])],
                 [("x", F, ["n", 3, 10, 10])], [("y", F, ["n", 7])],
                 k=rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
                 w=rng.standard_normal((100, 7)).astype(np.float32) / 10)


def words(rng: np.random.Generator) -> onnx.ModelProto:
    """Embeddings, attention between them, a mean."""
    node = helper.make_node
    return model([node("Gather", ["table", "ids"], ["e"]), node("Transpose", ["e"], ["t"], perm=[0, 2, 1]),
                  node("MatMul", ["e", "t"], ["s"]), node("Softmax", ["s"], ["p"], axis=-1),
                  node("MatMul", ["p", "e"], ["a"]), node("Add", ["a", "z"], ["b"]),
                  node("ReduceMean", ["b", "axes"], ["y"], keepdims=0)],
                 [("ids", I, ["n", 6]), ("z", F, ["n", 6, 8])], [("y", F, ["n", 8])],
                 table=rng.standard_normal((50, 8)).astype(np.float32), axes=np.array([1]))


def feeds(kind: str, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if kind == "pictures":
        return {"x": rng.standard_normal((n, 3, 10, 10)).astype(np.float32)}
    return {"ids": rng.integers(-50, 50, (n, 6)), "z": rng.standard_normal((n, 6, 8)).astype(np.float32)}


def graphs(ctx: CudaContext) -> int:
    return sum(len(b._graphs) for kept in ctx._bound.values() for b in kept.values())


def poison(ctx: CudaContext, byte: int) -> None:
    """This byte wherever a run's inputs and outputs lie: 0xff is NaN and -1, 0x7f are huge numbers."""
    d, slot = ctx.device, ctx.slot
    assert slot.memory is not None
    assert slot.pinned is not None
    slot.pinned.bytes[...] = byte
    with d.current():
        d.check(d.api.cuMemsetD8Async(slot.memory.address, byte, slot.memory.size, ctx.streams.first), "poison")
        d.synchronize(ctx.streams.first)


@needs_cuda
@pytest.mark.parametrize("kind", ["pictures", "words"])
def test_random_batches_give_what_exact_shapes_give(kind: str) -> None:
    rng = np.random.default_rng(0)
    m = (pictures if kind == "pictures" else words)(rng)
    profile = [{"n": (1, 8, MOST)}]
    plan = whet.build(m, opt_level=0, target="cuda", profiles=profile)
    with whet.load(whet.build(m, opt_level=0, threads=1, profiles=profile)) as cpu, whet.load(plan) as engine:
        assert engine._programs[0].program.independent == ["n"]
        with engine.context() as ctx:
            assert isinstance(ctx, CudaContext)
            for n in (1, 2, 4, 8, 16, 32, MOST):
                ctx.run(feeds(kind, n, rng))
            made, held = graphs(ctx), engine.device_bytes
            for n in rng.integers(1, MOST + 1, 40).tolist():
                x = feeds(kind, n, rng)
                poison(ctx, 0xFF if n % 2 else 0x7F)
                for name, y in cpu(x).items():
                    np.testing.assert_allclose(ctx.run(x)[name], y, rtol=2e-4, atol=2e-5)
                    out = np.empty_like(y)
                    ctx.run(x, {name: out})
                    there = ctx.run(x, device=True)[name]
                    np.testing.assert_array_equal(there.numpy(), out)
                    np.testing.assert_array_equal(ctx.submit(x).result(20)[name], out)
                    exact = np.empty_like(y)
                    if n < 6:
                        ctx.runner(list(x.values()), [exact])()
                        np.testing.assert_allclose(out, exact, rtol=1e-5, atol=1e-6)
            assert engine.device_bytes - held <= 4 * ctx.slot.least, "the slots of submitted runs, and no more"
            assert graphs(ctx) <= 4 * made + 5, "those of the three slots of submitted runs, and the runners' launches"


@needs_cuda
def test_no_new_graphs_once_the_context_is_there() -> None:
    data = chain(gpu(), 20)
    data.programs = [msgspec.structs.replace(p, independent=["batch"]) for p in data.programs]
    d = device()
    with load_data(data) as engine, engine.context() as ctx:
        assert isinstance(ctx, CudaContext)
        made, held = graphs(ctx), engine.device_bytes
        assert made == 7
        rng = np.random.default_rng(1)
        x = rng.standard_normal((64, 5)).astype(np.float32)
        there, out = d.allocate(x.nbytes, "x"), d.allocate(x.nbytes, "y")
        with d.current():
            d.check(d.api.cuMemcpyHtoD(there.address, x.ctypes.data, x.nbytes), "in")
        for n in rng.integers(1, 64, 30).tolist():
            np.testing.assert_array_equal(ctx.run({"x": x[:n]})["y"], expected(x[:n], 20))
            if n not in (1, 2, 4, 8, 16, 32):
                got = ctx.run({"x": Pointer(there.address, (n, 5), "float32", device=0)},
                              {"y": Pointer(out.address, (n, 5), "float32", device=0)})["y"]
                y = np.empty((n, 5), np.float32)
                with d.current():
                    d.check(d.api.cuMemcpyDtoH(y.ctypes.data, got.address, y.nbytes), "out")
                np.testing.assert_array_equal(y, expected(x[:n], 20))
        assert graphs(ctx) == made
        assert engine.device_bytes == held
