"""ONNX Runtime's attention operators on generated kernels, against ONNX Runtime."""

import numpy as np
import pytest
from contrib_cases import agree, by_onnxruntime, by_whet, model_of, normal

F32, I32, I64 = np.float32, np.int32, np.int64


# -- Attention --------------------------------------------------------------------------------


def padding(kind: str, b: int, s: int, t: int) -> np.ndarray | None:
    rng = np.random.default_rng(7)
    match kind:
        case "lengths":
            return rng.integers(1, t + 1, b).astype(I32)
        case "ends and starts":
            return np.array([t - 1] * b + [1] * b, I32)
        case "keys":
            return (rng.random((b, t)) > 0.3).astype(I32)
        case "scores":
            return (rng.random((b, s, t)) > 0.3).astype(I32)
    return None


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", ["none", "lengths", "ends and starts", "keys", "scores"])
def test_attention_with_its_projection(causal: int, mask: str) -> None:
    b, s, w, heads = 2, 7, 24, 3
    ins = [normal(b, s, 10), normal(10, 3 * w, seed=1), normal(3 * w, seed=2), padding(mask, b, s, s)]
    agree("Attention", ins, [(F32, 3)], {"num_heads": heads, "unidirectional": causal}, (1, 2))


@pytest.mark.parametrize("s", [1, 5])
def test_attention_with_a_past(s: int) -> None:
    b, w, heads, past = 2, 24, 3, 6
    ins = [normal(b, s, 10), normal(10, 3 * w, seed=1), normal(3 * w, seed=2), padding("keys", b, s, s + past),
           normal(2, b, heads, past, w // heads, seed=3)]
    agree("Attention", ins, [(F32, 3), (F32, 5)], {"num_heads": heads, "unidirectional": 1}, (1, 2))


def test_attention_with_narrow_values() -> None:
    ins = [normal(2, 7, 10), normal(10, 16 + 16 + 8, seed=1), normal(40, seed=2)]
    agree("Attention", ins, [(F32, 3)], {"num_heads": 2, "qkv_hidden_sizes": [16, 16, 8], "scale": 0.3}, (1, 2))


def test_quantized_attention() -> None:
    rng = np.random.default_rng(3)
    x, w = rng.integers(0, 256, (2, 7, 16)).astype(np.uint8), rng.integers(-128, 128, (16, 72)).astype(np.int8)
    ins = [x, w, normal(72), np.array(0.02, F32), np.array(0.01, F32), None, np.array(120, np.uint8),
           np.array(0, np.int8)]
    agree("QAttention", ins, [(F32, 3)], {"num_heads": 3}, (1, 2, 3, 4, 6, 7), rtol=1e-3, atol=1e-3)


# -- MultiHeadAttention -----------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", ["self", "cross", "cached"])
def test_multi_head_attention(form: str, bias: bool) -> None:
    b, s, t, n, d = 2, 5, 9, 3, 8
    w = n * d
    match form:
        case "self":
            ins = [normal(b, s, w), normal(b, s, w, seed=1), normal(b, s, w, seed=2)]
        case "cross":
            ins = [normal(b, s, w), normal(b, t, w, seed=1), normal(b, t, 2 * w, seed=2)]
        case _:
            ins = [normal(b, s, w), normal(b, n, t, d, seed=1), normal(b, n, t, d, seed=2)]
    wide = (4 if form == "cross" else 3) * w
    agree("MultiHeadAttention", [*ins, normal(wide, seed=5) if bias else None], [(F32, 3)], {"num_heads": n})


@pytest.mark.parametrize("parts", [2, 3])
def test_multi_head_attention_of_packed_operands(parts: int) -> None:
    """Against the formula: ONNX Runtime has no kernel for the CPU."""
    b, s, t, n, d = 2, 5, 9, 3, 8
    if parts == 3:
        ins = [normal(b, s, n, 3, d)]
        q, k, v = (ins[0][:, :, :, i].astype(float) for i in range(3))
    else:
        ins = [normal(b, s, n * d), normal(b, t, n, 2, d, seed=1)]
        q, k, v = ins[0].reshape(b, s, n, d).astype(float), *(ins[1][:, :, :, i].astype(float) for i in range(2))
    e = np.exp(np.einsum("bsnd,btnd->bnst", q, k) / np.sqrt(d))
    want = np.einsum("bnst,btnd->bsnd", e / e.sum(-1, keepdims=True), v).reshape(b, s, n * d)
    model, feeds = model_of("MultiHeadAttention", ins, [(F32, 3)], {"num_heads": n})
    np.testing.assert_allclose(by_whet(model, feeds)[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", ["none", "lengths", "keys", "scores"])
@pytest.mark.parametrize("causal", [0, 1])
def test_multi_head_attention_with_past_and_masks(mask: str, causal: int) -> None:
    b, s, past, n, d = 2, 5, 4, 3, 8
    w, t = n * d, s + past
    if mask == "lengths":
        past, t = 0, s
    cache = [normal(b, n, past, d, seed=3), normal(b, n, past, d, seed=4)] if past else [None, None]
    ins = [normal(b, s, w), normal(b, s, w, seed=1), normal(b, s, w, seed=2), None, padding(mask, b, s, t),
           normal(1, n, s, t, seed=6), *cache]
    agree("MultiHeadAttention", ins, [(F32, 3), (F32, 4), (F32, 4)], {"num_heads": n, "unidirectional": causal})


# -- GroupQueryAttention ----------------------------------------------------------------------


def caches(length: int, half: int) -> tuple[np.ndarray, np.ndarray]:
    angle = np.arange(length)[:, None] / 100 ** (np.arange(half) / half)
    return np.cos(angle).astype(F32), np.sin(angle).astype(F32)


def grouped(s: int, past: int | None, *, b: int = 2, n: int = 6, g: int = 2, d: int = 16, room: int = 0,
            packed: bool = False, lengths: list[int] | None = None, rotary: bool = True,
            **attrs: object) -> tuple[list[np.ndarray | None], dict[str, object]]:
    """Operands of a GroupQueryAttention: `past` keys in a cache with `room` places more."""
    total = s + (past or 0)
    if packed:
        qkv: list[np.ndarray | None] = [normal(b, s, (n + 2 * g) * d), None, None]
    else:
        qkv = [normal(b, s, n * d), normal(b, s, g * d, seed=1), normal(b, s, g * d, seed=2)]
    cache = [normal(b, g, past + room, d, seed=i) for i in (3, 4)] if past is not None else [None, None]
    counts = np.array(lengths if lengths is not None else [total] * b, I32) - 1
    ins = [*qkv, *cache, counts, np.array(total, I32), *(caches(64, d // 2) if rotary else ())]
    return ins, {"num_heads": n, "kv_num_heads": g, "do_rotary": int(rotary), **attrs}


def compare(ins: list, attrs: dict, s: int, past: int | None, lengths: list[int] | None = None) -> None:
    """Outputs, and the part of the present keys and values that exists."""
    model, feeds = model_of("GroupQueryAttention", ins, [(F32, 3), (F32, 4), (F32, 4)], attrs, (6, 7, 8))
    want, got = by_onnxruntime(model, feeds), by_whet(model, feeds)
    b = want[0].shape[0]
    for i in range(b):
        total = lengths[i] if lengths else s + (past or 0)
        rows = min(s, total)  # rows of padding say nothing
        np.testing.assert_allclose(got[0][i, :rows], want[0][i, :rows], rtol=1e-4, atol=1e-5)
        for k in (1, 2):
            assert got[k].shape == want[k].shape
            np.testing.assert_allclose(got[k][i, :, :total], want[k][i, :, :total], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("past", [None, 0])
@pytest.mark.parametrize("rotary", [False, True])
def test_grouped_attention_of_a_prompt(past: int | None, rotary: bool) -> None:
    ins, attrs = grouped(9, past, rotary=rotary)
    compare(ins, attrs, 9, past)


def test_grouped_attention_of_prompts_of_different_lengths() -> None:
    ins, attrs = grouped(9, None, lengths=[9, 5])
    compare(ins, attrs, 9, None, [9, 5])


@pytest.mark.parametrize("room", [0, 7])
@pytest.mark.parametrize("options", [{}, {"packed": True}, {"rotary_interleaved": 1}, {"local_window_size": 4},
                                     {"softcap": 2.0}, {"scale": 0.7}, {"g": 1}, {"g": 6}], ids=str)
def test_grouped_attention_of_the_next_token(room: int, options: dict) -> None:
    ins, attrs = grouped(1, 11, room=room, **options)
    compare(ins, attrs, 1, 11)


def test_grouped_attention_of_tokens_at_different_places() -> None:
    ins, attrs = grouped(1, 11, room=3, lengths=[12, 7])
    compare(ins, attrs, 1, 11, [12, 7])


@pytest.mark.parametrize("window", [-1, 3])
def test_grouped_attention_of_several_more_tokens(window: int) -> None:
    ins, attrs = grouped(4, 11, b=1, local_window_size=window)
    compare(ins, attrs, 4, 11)


def test_grouped_attention_with_a_bias() -> None:
    ins, attrs = grouped(5, 0)
    compare([*ins, None, normal(1, 6, 5, 5, seed=9)], attrs, 5, 0)


# -- RotaryEmbedding --------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("form", ["flat", "heads", "offset"])
def test_rotary_embedding(interleaved: int, form: str) -> None:
    b, s, n, d = 2, 5, 3, 16
    cos, sin = caches(40, d // 2)
    x = normal(b, n, s, d) if form == "heads" else normal(b, s, n * d)
    ids = np.array([3], I64) if form == "offset" else np.array([[1, 5, 7, 2, 30], [0, 1, 2, 3, 4]], I64)
    agree("RotaryEmbedding", [x, ids, cos, sin], [(F32, x.ndim)], {"interleaved": interleaved}, (2, 3))


def test_rotary_embedding_of_a_part_of_the_head() -> None:
    cos, sin = caches(40, 4)
    agree("RotaryEmbedding", [normal(2, 5, 48), np.array([[1, 5, 7, 2, 30]] * 2, I64), cos, sin], [(F32, 3)],
          {"num_heads": 3, "rotary_embedding_dim": 8}, (2, 3))


# -- recurrent forms --------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("per_key", [False, True])
def test_linear_attention(rule: str, per_key: bool) -> None:
    b, t, h, g, d, e = 2, 6, 4, 2, 8, 12
    k = normal(b, t, g, d, seed=1)
    k = (k / np.linalg.norm(k, axis=-1, keepdims=True)).reshape(b, t, g * d)
    decay = -np.abs(normal(b, t, g * d if per_key else g, seed=3)) if "gated" in rule else None
    beta = 1 / (1 + np.exp(-normal(b, t, g, seed=4))) if "delta" in rule else None
    ins = [normal(b, t, h * d), k, normal(b, t, g * e, seed=2), normal(b, g, d, e, seed=5), decay, beta]
    agree("LinearAttention", ins, [(F32, 3), (F32, 4)], {"q_num_heads": h, "kv_num_heads": g, "update_rule": rule})


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize("length", [1, 7])
def test_causal_convolution_with_state(activation: str, length: int) -> None:
    ins = [normal(2, 6, length), normal(6, 1, 4, seed=1), normal(6, seed=2), normal(2, 6, 3, seed=3)]
    agree("CausalConvWithState", ins, [(F32, 3), (F32, 3)], {"activation": activation}, (1, 2))


# -- dynamic lengths --------------------------------------------------------------------------


def test_grouped_attention_from_prompt_to_tokens_in_one_plan() -> None:
    """Past and total lengths are dimensions: the total is the length of an attention mask, as exporters have it."""
    import onnx
    from onnx import TensorProto, helper

    import whet

    n, g, d = 4, 2, 16
    cos, sin = caches(64, d // 2)
    weights = [onnx.numpy_helper.from_array(a, name) for a, name in
               ((cos, "cos"), (sin, "sin"), (np.array(1, I64), "one"), (np.array([1], I64), "axis"))]
    nodes = [helper.make_node("Shape", ["mask"], ["shape"]),
             helper.make_node("Gather", ["shape", "one"], ["length"]),
             helper.make_node("Cast", ["length"], ["total"], to=TensorProto.INT32),
             helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=0),
             helper.make_node("Sub", ["count", "one"], ["before"]),
             helper.make_node("Cast", ["before"], ["seqlens"], to=TensorProto.INT32),
             helper.make_node("GroupQueryAttention", ["q", "k", "v", "pk", "pv", "seqlens", "total", "cos", "sin"],
                              ["y", "nk", "nv"], domain="com.microsoft", num_heads=n, kv_num_heads=g, do_rotary=1)]
    f = TensorProto.FLOAT
    ins = [helper.make_tensor_value_info("q", f, ["b", "s", n * d]),
           *(helper.make_tensor_value_info(x, f, ["b", "s", g * d]) for x in "kv"),
           *(helper.make_tensor_value_info(x, f, ["b", g, "past", d]) for x in ("pk", "pv")),
           helper.make_tensor_value_info("mask", TensorProto.INT64, ["b", "total"])]
    outs = [helper.make_tensor_value_info("y", f, ["b", "s", n * d]),
            *(helper.make_tensor_value_info(x, f, ["b", g, "total", d]) for x in ("nk", "nv"))]
    model = helper.make_model(helper.make_graph(nodes, "gqa", ins, outs, weights), ir_version=10,
                              opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)])
    profile = {"b": (1, 1, 2), "s": (1, 4, 8), "past": (0, 8, 40), "total": (1, 12, 48)}
    engine = whet.load(whet.build(model, opt_level=0, threads=1, profiles=[profile]))
    for b, s, past in ((2, 6, 0), (2, 1, 6), (1, 1, 39), (1, 1, 1)):
        feeds = {"q": normal(b, s, n * d), "k": normal(b, s, g * d, seed=1), "v": normal(b, s, g * d, seed=2),
                 "pk": normal(b, g, past, d, seed=3), "pv": normal(b, g, past, d, seed=4),
                 "mask": np.ones((b, s + past), I64)}
        want = by_onnxruntime(model, feeds)
        got = engine(feeds)
        for name, w in zip(("y", "nk", "nv"), want, strict=True):
            np.testing.assert_allclose(got[name], w, rtol=1e-4, atol=1e-5, err_msg=f"{name} {b} {s} {past}")


@pytest.mark.parametrize("past", [0, 11])
def test_grouped_attention_whose_total_length_is_an_input(past: int) -> None:
    ins, attrs = grouped(9 if past == 0 else 1, past)
    s = 9 if past == 0 else 1
    model, feeds = model_of("GroupQueryAttention", ins, [(F32, 3), (F32, 4), (F32, 4)], attrs, (7, 8))
    import whet

    want = by_onnxruntime(model, feeds)
    got = whet.load(whet.build(model, opt_level=0, threads=1))(feeds)
    for i, w in enumerate(want):
        assert got[f"y{i}"].shape == w.shape == ((2, s, 96) if i == 0 else (2, 2, s + past, 16))
        np.testing.assert_allclose(got[f"y{i}"], w, rtol=1e-4, atol=1e-5)
