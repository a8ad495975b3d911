"""whet surgeon: what is cut out, put in, renamed and reshaped is valid ONNX and computes what it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tools.surgery import model, network, run, tensor
from whet.errors import InputError, ModelFileError, UnsupportedError, WeightsError
from whet.tools import surgeon
from whet.tools.surgeon import OnnxModel

node = helper.make_node
RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def net() -> OnnxModel:
    return OnnxModel.open(network(np.random.default_rng(0)))


def feed(n: int = 3) -> dict[str, np.ndarray]:
    return {"x": RNG.standard_normal((n, 64)).astype(np.float32)}


# -- reading and writing ------------------------------------------------------------------------


def test_a_model_written_in_one_file_is_the_same(net: OnnxModel, tmp_path: Path) -> None:
    assert net.save(tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    x = feed()
    for got, want in zip(run(tmp_path / "m.onnx", x), run(network(np.random.default_rng(0)), x)):
        np.testing.assert_array_equal(got, want)
    assert onnx.load(tmp_path / "m.onnx").graph == network(np.random.default_rng(0)).graph


def test_external_data_stays_where_it_is_in_the_same_folder_and_is_copied_elsewhere(net: OnnxModel,
                                                                                   tmp_path: Path) -> None:
    net.save(tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx").stat().st_size < 4096
    again = OnnxModel.open(tmp_path / "m.onnx")
    assert again.save(tmp_path / "n.onnx") == [tmp_path / "n.onnx"], "the weights are shared"
    (tmp_path / "other").mkdir()
    assert [p.name for p in again.save(tmp_path / "other" / "n.onnx")] == ["n.onnx.data", "n.onnx"]
    assert [p.name for p in again.save(tmp_path / "o.onnx", share=False)] == ["o.onnx.data", "o.onnx"]
    again.save(tmp_path / "m.onnx")  # over itself, while its data is mapped
    x = feed()
    want = run(net, x)
    for p in ("m.onnx", "n.onnx", "other/n.onnx", "o.onnx"):
        for a, b in zip(run(tmp_path / p, x), want):
            np.testing.assert_array_equal(a, b)


def test_a_model_of_over_2_gib_is_written_with_external_data(tmp_path: Path) -> None:
    big = OnnxModel.open(model([node("ReduceMax", ["w"], ["m"], keepdims=0), node("Add", ["x", "m"], ["y"])],
                               [tensor("x", [1])], [tensor("y", [1])]))
    hole = tmp_path / "hole"
    with hole.open("wb") as f:
        f.truncate((1 << 31) + 4096)
    from whet.frontends.protobuf import map_file

    t = big.proto.graph.initializer.add(name="w", data_type=onnx.TensorProto.INT8, dims=[(1 << 31) + 4096])
    big._refer(t, surgeon.model.Weight(memoryview(map_file(hole, "a file")), hole, 0))
    with pytest.raises(UnsupportedError, match="too large"):
        big.to_bytes()
    assert big.save(tmp_path / "big.onnx") == [tmp_path / "big.onnx"]
    info = {e.key: e.value for e in onnx.load(tmp_path / "big.onnx", load_external_data=False)
            .graph.initializer[0].external_data}
    assert info == {"location": "hole", "offset": "0", "length": str((1 << 31) + 4096)}


def test_the_given_model_is_not_changed(net: OnnxModel) -> None:
    before = net.to_bytes()
    surgeon.rename(net, {"a": "aa"})
    surgeon.prune(net, outputs=["z"])
    surgeon.insert(net, "Neg", ["b"], ["b"])
    surgeon.set_shapes(net, {"x": (2, 64)})
    surgeon.sanitize(net)
    assert net.to_bytes() == before


# -- extract ------------------------------------------------------------------------------------


def test_a_part_between_tensors_computes_what_it_did(net: OnnxModel) -> None:
    part = surgeon.extract(net, ["y"], ["b", "s"])
    a, b, s, y = run(surgeon.extract(net, ["a", "b", "s", "y"]), x := feed())
    np.testing.assert_array_equal(run(part, {"b": b, "s": s})[0], y)
    assert [n.op_type for n in part.proto.graph.node] == ["MatMul", "Mul"]
    assert [t.name for t in part.proto.graph.initializer] == ["w2"]
    assert surgeon.shapes.dims(part.proto.graph.input[0].type) == ["n", 64]
    fixed = surgeon.extract(net, ["y"], ["b", "s"], shapes={"b": (5, 64), "s": (5, 64)})
    assert surgeon.shapes.dims(fixed.proto.graph.output[0].type) == [5, 64]
    assert a.shape == x["x"].shape


def test_a_weight_can_become_an_input(net: OnnxModel) -> None:
    part = surgeon.extract(net, ["a"], ["x", "w1"])
    x, w = feed()["x"], np.eye(64, dtype=np.float32)
    np.testing.assert_array_equal(run(part, {"x": x, "w1": w})[0], x)


def test_extract_says_which_names_are_wrong_or_missing(net: OnnxModel) -> None:
    with pytest.raises(InputError, match="no tensor 'bb'"):
        surgeon.extract(net, ["bb"])
    with pytest.raises(InputError, match="depend on 'x' too"):
        surgeon.extract(net, ["y"], ["c"])
    with pytest.raises(InputError, match="no output depends on 'y'"):
        surgeon.extract(net, ["a"], ["x", "y"])
    with pytest.raises(InputError, match="as input and as output"):
        surgeon.extract(net, ["a"], ["a"])


def branching() -> onnx.ModelProto:
    """y = relu(x * 2) where sum(x) > 0, else -(x * 2); the branches capture `twice`, and have weights of their own."""
    then = helper.make_graph([node("Relu", ["twice"], ["t0"]), node("Add", ["t0", "one"], ["t1"])], "then", [],
                             [tensor("t1", None)], [helper.make_tensor("one", 1, [], [1.0])])
    other = helper.make_graph([node("Neg", ["twice"], ["e0"])], "else", [], [tensor("e0", None)])
    return model([node("Mul", ["x", "two"], ["twice"], name="double"), node("ReduceSum", ["x"], ["sum"], keepdims=0),
                  node("Greater", ["sum", "zero"], ["positive"]),
                  node("If", ["positive"], ["y"], name="choose", then_branch=then, else_branch=other)],
                 [tensor("x", ["n"])], [tensor("y", None)],
                 {"two": np.float32(2), "zero": np.float32(0)})


def test_what_bodies_capture_is_kept_and_can_be_an_input() -> None:
    m = OnnxModel.open(branching())
    part = surgeon.extract(m, ["y"], ["twice", "positive"])
    t = np.array([-2, 4], np.float32)
    assert run(part, {"twice": t, "positive": np.array(True)})[0].tolist() == [1, 5]
    assert run(part, {"twice": t, "positive": np.array(False)})[0].tolist() == [2, -4]


def test_the_inside_of_a_body_can_be_extracted() -> None:
    m = OnnxModel.open(branching())
    part = surgeon.extract(m, ["t1"])
    assert run(part, {"x": np.array([-1, 3], np.float32)})[0].tolist() == [1, 7]
    with pytest.raises(InputError, match="different bodies"):
        surgeon.extract(m, ["t1", "e0"])


# -- insert, prune, rename ----------------------------------------------------------------------


def test_a_node_is_put_behind_a_tensor_in_the_place_of_some_or_at_the_end(net: OnnxModel) -> None:
    x = feed()
    a, b, s, y = run(surgeon.extract(net, ["a", "b", "s", "y"]), x)
    w2 = onnx.numpy_helper.to_array(network(np.random.default_rng(0)).graph.initializer[1])
    behind = surgeon.insert(net, "Neg", ["b"], ["b"])
    np.testing.assert_allclose(run(behind, x)[0], -b @ w2 * s, rtol=1e-4, atol=1e-5)
    instead = surgeon.insert(net, "Elu", ["a"], ["b"], {"alpha": 2})
    assert "Relu" not in [n.op_type for n in instead.proto.graph.node]
    np.testing.assert_allclose(run(instead, x)[0], np.where(a > 0, a, 2 * np.expm1(a)) @ w2 * s, rtol=1e-3, atol=1e-4)
    more = surgeon.insert(net, "Exp", ["y"], ["e"])
    np.testing.assert_allclose(run(more, x, ["e"])[0], np.exp(y), rtol=1e-5)
    shown = surgeon.insert(net, "Neg", ["y"], ["y"])
    np.testing.assert_array_equal(run(shown, x, ["y"])[0], -y)
    first = surgeon.insert(net, "Neg", ["x"], ["x"])
    np.testing.assert_array_equal(run(first, {"x": -x["x"]}, ["y"])[0], y)


def test_a_model_is_put_between_tensors_with_its_weights_and_names_kept_apart(net: OnnxModel) -> None:
    w = RNG.standard_normal((64, 64)).astype(np.float32)
    part = OnnxModel.open(model([node("MatMul", ["x", "w1"], ["a"], name="first"), node("Neg", ["a"], ["y"])],
                                [tensor("x", ["k", 64])], [tensor("y", ["k", 64])], {"w1": w}, opset=17))
    both = surgeon.insert(net, part, ["a"], ["b"])
    x = feed()
    a, s = run(surgeon.extract(net, ["a", "s"]), x)
    w2 = onnx.numpy_helper.to_array(network(np.random.default_rng(0)).graph.initializer[1])
    np.testing.assert_allclose(run(both, x, ["y"])[0], -(a @ w) @ w2 * s, rtol=1e-3, atol=1e-3)
    assert len({n.name for n in both.proto.graph.node if n.name}) == 6
    with pytest.raises(InputError, match="1 inputs and 1 outputs"):
        surgeon.insert(net, part, ["a", "b"], ["c"])


def test_insert_refuses_what_cannot_be(net: OnnxModel) -> None:
    with pytest.raises(InputError, match="operator in opset 18 'Rellu'") as e:
        surgeon.insert(net, "Rellu", ["b"], ["b"])
    assert "Relu" in e.value.why
    with pytest.raises(InputError, match="attribute of Elu"):
        surgeon.insert(net, "Elu", ["b"], ["b"], {"alfa": 1})
    with pytest.raises(InputError, match="no tensor 'q'"):
        surgeon.insert(net, "Relu", ["q"], ["b"])


def test_a_pruned_node_is_bridged(net: OnnxModel) -> None:
    x = feed()
    a, s = run(surgeon.extract(net, ["a", "s"]), x)
    w2 = onnx.numpy_helper.to_array(network(np.random.default_rng(0)).graph.initializer[1])
    np.testing.assert_allclose(run(surgeon.prune(net, ["act"]), x)[0], a @ w2 * s, rtol=1e-4, atol=1e-5)
    last = surgeon.prune(net, ["join"])
    c = run(surgeon.extract(net, ["c"]), x)[0]
    np.testing.assert_array_equal(run(last, x, ["y"])[0], c)
    assert [o.name for o in last.proto.graph.output] == ["y", "z"]


def test_a_branch_goes_when_its_readers_get_another_tensor(net: OnnxModel) -> None:
    less = surgeon.prune(net, reconnect={"c": "a"}, outputs=["z"])
    assert [n.name for n in less.proto.graph.node] == ["first", "gate", "join"]
    assert [t.name for t in less.proto.graph.initializer] == ["w1"]
    x = feed()
    a, s = run(surgeon.extract(net, ["a", "s"]), x)
    np.testing.assert_array_equal(run(less, x)[0], a * s)


def test_prune_refuses_what_does_not_fit(net: OnnxModel) -> None:
    with pytest.raises(InputError, match="cannot be bridged"):
        surgeon.prune(net, ["mean"])
    with pytest.raises(InputError, match="'c' cannot take the place of 'z'"):
        surgeon.prune(net, reconnect={"z": "c"})
    with pytest.raises(InputError, match="no output would be left"):
        surgeon.prune(net, outputs=["y", "z"])
    with pytest.raises(InputError, match="circle"):
        surgeon.prune(net, reconnect={"a": "b", "b": "a"})


def test_names_change_everywhere(net: OnnxModel) -> None:
    new = surgeon.rename(net, {"x": "input", "y": "out", "w1": "weight", "b": "hidden"}, {"first": "fc"},
                         {"n": "batch"})
    x = feed()
    np.testing.assert_array_equal(run(new, {"input": x["x"]}, ["out"])[0], run(net, x, ["y"])[0])
    assert surgeon.shapes.dims(new.proto.graph.input[0].type) == ["batch", 64]
    by_pattern = surgeon.rename(net, {r"^w(\d)$": r"layer\1.weight"}, pattern=True)
    assert [t.name for t in by_pattern.proto.graph.initializer] == ["layer1.weight", "layer2.weight"]
    inside = surgeon.rename(OnnxModel.open(branching()), {"twice": "double", "t1": "result"})
    assert run(inside, {"x": np.array([-1, 3], np.float32)})[0].tolist() == [1, 7]
    with pytest.raises(InputError, match="two tensors would be called 'b'"):
        surgeon.rename(net, {"a": "b"})
    with pytest.raises(InputError, match="no dimension 'm'"):
        surgeon.rename(net, dimensions={"m": "k"})
    with pytest.raises(InputError, match="matches"):
        surgeon.rename(net, {"^q": "r"}, pattern=True)


def test_names_can_be_swapped(net: OnnxModel) -> None:
    x = feed()
    y = run(net, x, ["y"])[0]
    np.testing.assert_array_equal(run(surgeon.rename(net, {"a": "b", "b": "a", "y": "c", "c": "y"}), x, ["c"])[0], y)


# -- shapes -------------------------------------------------------------------------------------


def test_shapes_are_fixed_and_named_through_the_model(net: OnnxModel) -> None:
    fixed = surgeon.set_shapes(net, {"x": (7, 64)})
    assert surgeon.shapes.dims(fixed.proto.graph.output[0].type) == [7, 64]
    named = surgeon.set_shapes(fixed, {"x": ("rows", 64)})
    assert surgeon.shapes.dims(named.proto.graph.output[0].type) == ["rows", 64]
    sized = surgeon.set_shapes(net, sizes={"n": 4})
    assert surgeon.shapes.dims(sized.proto.graph.output[0].type) == [4, 64]
    x = feed(4)
    np.testing.assert_array_equal(run(sized, x)[0], run(net, x)[0])
    with pytest.raises(InputError, match="3 dimensions"):
        surgeon.set_shapes(net, {"x": (1, 2, 3)})
    with pytest.raises(InputError, match="no dimension 'k'"):
        surgeon.set_shapes(net, sizes={"k": 4})


# -- weights ------------------------------------------------------------------------------------


def test_weights_are_stripped_and_restored_byte_for_byte(net: OnnxModel, tmp_path: Path) -> None:
    surgeon.strip_weights(net, tmp_path / "thin.onnx", tmp_path / "weights.bin")
    surgeon.strip_weights(net, tmp_path / "again.onnx", tmp_path / "weights.bin")
    assert (tmp_path / "thin.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()
    assert (tmp_path / "thin.onnx").stat().st_size < 4096
    x = feed()
    np.testing.assert_array_equal(run(tmp_path / "thin.onnx", x)[0], run(net, x)[0])
    back = surgeon.restore_weights(tmp_path / "thin.onnx", tmp_path / "weights.bin")
    assert back.to_bytes() == net.to_bytes()
    back.save(tmp_path / "back.onnx")
    np.testing.assert_array_equal(run(tmp_path / "back.onnx", x)[0], run(net, x)[0])


def test_other_weights_are_refused(net: OnnxModel, tmp_path: Path) -> None:
    surgeon.strip_weights(net, tmp_path / "thin.onnx", tmp_path / "w")
    data = bytearray((tmp_path / "w").read_bytes())
    data[100] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    (tmp_path / "short").write_bytes(data[:-1])
    with pytest.raises(WeightsError, match="not those that were stripped"):
        surgeon.restore_weights(tmp_path / "thin.onnx", tmp_path / "damaged")
    with pytest.raises(WeightsError, match="bytes"):
        surgeon.restore_weights(tmp_path / "thin.onnx", tmp_path / "short")
    with pytest.raises(ModelFileError, match="not there"):
        surgeon.restore_weights(tmp_path / "thin.onnx", tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot be one file"):
        surgeon.strip_weights(net, tmp_path / "one", tmp_path / "one")
    net.save(tmp_path / "whole.onnx")
    with pytest.raises(ModelFileError, match="not stripped"):
        surgeon.restore_weights(tmp_path / "whole.onnx")


def test_equal_weights_are_stored_once(tmp_path: Path) -> None:
    w = RNG.standard_normal((64, 64)).astype(np.float32)
    m = OnnxModel.open(model([node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])],
                             [tensor("x", [1, 64])], [tensor("y", [1, 64])], {"a": w, "b": w}))
    surgeon.strip_weights(m, tmp_path / "m.onnx", tmp_path / "w")
    assert (tmp_path / "w").stat().st_size == w.nbytes


# -- operators that are not ONNX's own ------------------------------------------------------------


def test_operators_of_other_domains_are_put_in_and_cut_around(net: OnnxModel) -> None:
    x = feed()
    gelu = surgeon.insert(net, "Gelu", ["a"], ["b"], domain="com.microsoft")
    clean = surgeon.sanitize(surgeon.rename(gelu, {"x": "data"}))
    np.testing.assert_allclose(run(clean, {"data": x["x"]}, ["y"])[0], run(gelu, x, ["y"])[0], rtol=1e-5)
    assert {o.domain for o in clean.proto.opset_import} == {"", "com.microsoft"}
    with pytest.raises(InputError, match="type of 'b' is not known"):
        surgeon.extract(gelu, ["c"], ["b"])
    part = surgeon.extract(gelu, ["c"], ["b"], shapes={"b": ("n", 64)}, element_types={"b": "float32"})
    assert run(part, {"b": x["x"]})[0].shape == (3, 64)


def test_functions_stay_where_they_are_needed() -> None:
    opset = [helper.make_opsetid("", 18)]
    fs = [helper.make_function("mine", name, ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], opset)
          for name in ("Twice", "Other")]
    m = OnnxModel.open(model([node("Twice", ["x"], ["t"], domain="mine"), node("Other", ["t"], ["u"], domain="mine"),
                              node("Relu", ["u"], ["y"])], [tensor("x", [3])], [tensor("y", [3])], functions=fs,
                             opsets=[helper.make_opsetid("mine", 1)]))
    part = surgeon.extract(m, ["t"])
    assert [f.name for f in part.proto.functions] == ["Twice"]
    assert run(part, {"x": np.ones(3, np.float32)})[0].tolist() == [2, 2, 2]
    more = surgeon.insert(m, "Twice", ["u"], ["u"], domain="mine")
    assert run(more, {"x": np.ones(3, np.float32)})[0].tolist() == [8, 8, 8]
