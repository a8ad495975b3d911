"""Whatever is wrong with a model is one typed error that says what, where, why and what to do."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_cases import model, one

from whet.errors import GraphError, InputError, ModelFileError, ProfileError, UnsupportedError, WhetError
from whet.frontends import load_model, model_hash
from whet.ir import DType

F = np.float32


def relu() -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"], name="act")], {"x": (F, ("n", 4))}, ["y"])


def with_weights(size: int = 4096) -> onnx.ModelProto:
    w = np.arange(size, dtype=F).reshape(4, -1)
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (F, ("n", 4))}, ["y"], {"w": w})


def external(folder: Path, location: str = "weights.bin", **entries: Any) -> Path:
    """A model in `folder` whose weight is 64 bytes of `location`."""
    m = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (F, ("n", 4))}, ["y"])
    t = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    for k, v in {"location": location, "offset": 0, "length": 64, **entries}.items():
        t.external_data.add(key=k, value=str(v))
    m.graph.initializer.append(t)
    path = folder / "model.onnx"
    path.write_bytes(m.SerializeToString())
    return path


# -- files ------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not there") as e:
        load_model(tmp_path / "none.onnx")
    assert "none.onnx" in e.value.where


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="folder"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"hello, this is not a model", b"PK\x03\x04" + b"x" * 100,
                                     b"\x08\x07", b"\x89PNG\r\n\x1a\n" + bytes(range(256))])
def test_a_file_that_is_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        load_model(path)


def test_every_truncation_is_a_typed_error(tmp_path: Path) -> None:
    data = with_weights().SerializeToString()
    for n in {*range(200), *range(0, len(data) - 1, 997), len(data) - 1}:
        with pytest.raises(WhetError):
            load_model(data[:n])


def test_truncated_weights_are_noticed(tmp_path: Path) -> None:
    data = with_weights().SerializeToString()
    with pytest.raises(ModelFileError, match="truncated"):
        load_model(data[:len(data) // 2])


def test_flipped_bits_never_crash() -> None:
    data = bytearray(with_weights(64).SerializeToString())
    rng = random.Random(0)
    for _ in range(400):
        at, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        data[at] ^= bit
        with contextlib.suppress(WhetError):
            load_model(bytes(data))
        data[at] ^= bit


def test_weights_are_views_of_the_file_and_read_only(tmp_path: Path) -> None:
    m = with_weights()
    path = tmp_path / "m.onnx"
    path.write_bytes(m.SerializeToString())
    w = next(v for v in load_model(path).values() if v.name == "w")
    assert w.data is not None
    assert w.data.base is not None
    assert not w.data.flags.writeable
    np.testing.assert_array_equal(w.data, numpy_helper.to_array(m.graph.initializer[0]))


# -- external data ----------------------------------------------------------------------------


def test_external_data_is_found_next_to_the_model(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.arange(16, dtype=F).tobytes())
    w = next(v for v in load_model(path).values() if v.name == "w")
    np.testing.assert_array_equal(w.data, np.arange(16).reshape(4, 4))


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not there") as e:
        load_model(external(tmp_path))
    assert "weights.bin" in e.value.where
    assert "tensor w" in e.value.why


@pytest.mark.parametrize("entries", [{"length": 64, "offset": 4}, {"offset": 1 << 60}, {"offset": -8},
                                     {"length": 1 << 62}, {"length": -1}])
def test_external_data_that_is_too_short(tmp_path: Path, entries: dict[str, int]) -> None:
    path = external(tmp_path, **entries)
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    with pytest.raises(ModelFileError, match="too short"):
        load_model(path)


def test_external_data_of_the_wrong_length(tmp_path: Path) -> None:
    path = external(tmp_path, length=60)
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    with pytest.raises(GraphError, match="60 bytes"):
        load_model(path)


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret.bin", "a/../../secret.bin", "", "x\0y", "..\\secret"])
def test_a_path_that_escapes_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        load_model(external(folder, location))


def test_a_link_that_escapes_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelFileError, match="outside"):
        load_model(external(folder))


def test_external_data_of_a_model_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="another file"):
        load_model(external(tmp_path).read_bytes())


def test_the_hash_covers_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    before = model_hash(path)
    (tmp_path / "weights.bin").write_bytes(b"\1" + bytes(63))
    assert len(before) == 64
    assert model_hash(path) != before


# -- graphs -----------------------------------------------------------------------------------


def test_a_cycle() -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["b"])]
    with pytest.raises(GraphError, match="cycle") as e:
        load_model(model(nodes, {"x": (F, (2,))}, ["b"]))
    assert "first" in e.value.where


def test_nodes_out_of_order_are_put_in_order() -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Exp", ["x"], ["a"])]
    assert [n.op for n in load_model(model(nodes, {"x": (F, (2,))}, ["y"])).nodes] == ["exp", "relu"]


def test_an_undefined_name() -> None:
    with pytest.raises(GraphError, match="'nowhere'"):
        load_model(model([helper.make_node("Relu", ["nowhere"], ["y"])], {"x": (F, (2,))}, ["y"]))


def test_a_name_with_two_sources() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Exp", ["x"], ["y"])]
    with pytest.raises(GraphError, match="twice"):
        load_model(model(nodes, {"x": (F, (2,))}, ["y"]))


def test_an_output_that_nothing_computes() -> None:
    with pytest.raises(GraphError, match="'z'"):
        load_model(model([helper.make_node("Relu", ["x"], ["y"])], {"x": (F, (2,))}, ["z"]))


def test_an_input_without_a_type() -> None:
    m = relu()
    m.graph.input[0].ClearField("type")
    with pytest.raises(GraphError, match="'x' has no type"):
        load_model(m)


def test_a_type_error_names_the_node() -> None:
    nodes = [helper.make_node("Add", ["x", "i"], ["y"], name="sum")]
    with pytest.raises(GraphError, match="one type") as e:
        load_model(model(nodes, {"x": (F, (2,)), "i": (np.int64, (2,))}, ["y"]))
    assert "sum" in e.value.where


def test_a_shape_error_names_the_node() -> None:
    m, _ = one("MatMul", [np.ones((2, 3), F), np.ones((4, 5), F)])
    m.graph.node[0].name = "fc1"
    with pytest.raises(GraphError, match="3 and 4") as e:
        load_model(m)
    assert "fc1" in e.value.where


@pytest.mark.parametrize(("change", "message"), [
    (lambda n: n.attribute.append(helper.make_attribute("slope", 2.0)), "no attribute 'slope'"),
    (lambda n: n.input.append("x"), "2 inputs"), (lambda n: n.output.append("z"), "2 outputs"),
])
def test_a_node_that_its_opset_does_not_allow(change: Any, message: str) -> None:
    m = relu()
    change(m.graph.node[0])
    with pytest.raises(GraphError, match=message):
        load_model(m)


def test_an_attribute_of_the_wrong_type() -> None:
    m, _ = one("Softmax", [np.ones((2, 3), F)], axis=1.5)
    with pytest.raises(GraphError, match="axis is of type FLOAT"):
        load_model(m)


def test_weights_that_do_not_fit_their_shape() -> None:
    m = with_weights()
    m.graph.initializer[0].dims[0] = 5
    with pytest.raises(GraphError, match="bytes of data"):
        load_model(m)


def test_an_output_declared_of_another_type() -> None:
    m = relu()
    m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.DOUBLE, None))
    with pytest.raises(GraphError, match="declared f64 and computed as f32"):
        load_model(m)


# -- operators --------------------------------------------------------------------------------


def test_an_unknown_operator_is_named_with_the_nearest_known_one() -> None:
    m = relu()
    m.graph.node[0].op_type = "Relo"
    with pytest.raises(UnsupportedError, match=r"unknown operator Relo of domain ai\.onnx, opset 20") as e:
        load_model(m)
    assert "did you mean Relu" in e.value.do
    assert "act" in e.value.where


def test_an_unknown_domain() -> None:
    m = relu()
    m.graph.node[0].domain = "com.example"
    with pytest.raises(UnsupportedError, match=r"domain com\.example"):
        load_model(m)


def test_a_newer_opset_than_onnx_knows() -> None:
    m = relu()
    m.opset_import[0].version = 1000
    with pytest.raises(UnsupportedError, match="opset 1000"):
        load_model(m)


def test_an_element_type_that_whet_lacks() -> None:
    m = relu()
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.COMPLEX64
    with pytest.raises(UnsupportedError, match="COMPLEX64"):
        load_model(m)


# -- shapes and profiles ----------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [{"z": (1, 4)}, {"x": (1, 2, 4)}, {"x": (1, 5)}, {"x": (-1, 4)}, {"x": (1.5, 4)}])
def test_shapes_that_do_not_fit(shapes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        load_model(relu(), shapes=shapes)


@pytest.mark.parametrize("profile", [
    {"z": ((1, 4), (1, 4), (1, 4))}, {"x": ((2, 4), (1, 4), (3, 4))}, {"x": ((1, 4), (1, 4))}, {"x": (1, 2, 3)},
    {"x": ((1, 4), (2, 4), (3, 5))}, {"n": (1, 2)}, {"n": (3, 2, 1)}, {"x": ((1, 4), (2, 4), (3, 4)), "n": (1, 2, 4)},
])
def test_profiles_that_do_not_fit(profile: dict[str, Any]) -> None:
    with pytest.raises(ProfileError):
        load_model(relu(), profiles=[profile])


def test_an_input_of_unknown_rank_is_an_object_unless_it_is_given_a_shape() -> None:
    m = relu()
    m.graph.input[0].type.tensor_type.ClearField("shape")
    m.graph.output[0].type.tensor_type.ClearField("shape")
    assert load_model(m).inputs[0].dtype is DType.OBJECT
    assert load_model(m, shapes={"x": (2, 4)}).inputs[0].shape == (2, 4)


def test_an_operand_that_may_not_be_absent_is_told() -> None:
    """ONNX's own inference takes it for granted."""
    graph = helper.make_graph([helper.make_node("Det", [""], ["y"], name="here")], "g", [],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])])
    with pytest.raises(GraphError, match="lacks its input") as e:
        load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    assert "here" in e.value.where
