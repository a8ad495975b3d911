"""Samples come from anywhere, fit the model, or are refused with what is wrong."""

import sys
import types

import numpy as np
import pytest

from whet.errors import InputError
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.symbolic import symbol
from whet.precision import batches, sources
from whet.precision.data import Preprocess, open_data
from whet.precision.specs import Extent, InputSpec, fixed, specs

F32 = np.dtype(np.float32)


def ranged(name="x", *rest, best=4, dtype=F32) -> InputSpec:
    return InputSpec(name, np.dtype(dtype), (Extent(1, best, 8, "n"), *(Extent(r, r, r) for r in rest)))


def rows(n, *shape, dtype=np.float32):
    return np.arange(n * int(np.prod(shape)), dtype=dtype).reshape(n, *shape)


def gathered(data, name="x"):
    """All samples of a walk, without repetitions, and the sizes of the batches."""
    found = list(data.batches())
    return np.concatenate([b.feeds[name][:b.count] for b in found]), [b.feeds[name].shape[0] for b in found]


def save(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


# ---- kinds of sources ----------------------------------------------------------------------------


def test_npz_arrays_become_batches_in_order(tmp_path):
    x = rows(10, 3)
    for path in (save(tmp_path / "a.npz", x=x), save(tmp_path / "b.npz", anything=x)):
        got, sizes = gathered(open_data(path, [ranged("x", 3)]))
        np.testing.assert_array_equal(got, x)
        assert sizes == [4, 4, 2]


def test_npz_with_several_inputs_and_labels(tmp_path):
    path = save(tmp_path / "a.npz", a=rows(9, 2), b=rows(9, 5, dtype=np.int64), labels=np.arange(9))
    data = open_data(str(path), [ranged("a", 2), ranged("b", 5, dtype=np.int64)], batch=8, need_labels=True)
    found = list(data.batches())
    assert [b.count for b in found] == [8, 1]
    assert np.concatenate([b.labels for b in found]).tolist() == list(range(9))
    assert data.samples == 9


def test_npz_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROWS", 7)
    x = rows(1000, 3)
    path = save(tmp_path / "a.npz", x=x)
    monkeypatch.setattr(np, "load", None)  # which would read all of it
    np.testing.assert_array_equal(gathered(open_data(path, [ranged("x", 3)]))[0], x)


def test_a_limit_takes_samples_evenly(tmp_path):
    x = rows(1000, 3)
    for given in (save(tmp_path / "a.npz", x=x), x, {"x": x}):
        data = open_data(given, [ranged("x", 3)], limit=5)
        got, _ = gathered(data)
        assert (got[:, 0] / 3).tolist() == [0, 250, 500, 749, 999]
        assert data.samples == 5
        assert data.digest() != open_data(given, [ranged("x", 3)]).digest()


def test_npy_files_arrays_and_mappings_are_the_same_samples(tmp_path):
    x = rows(6, 3)
    np.save(tmp_path / "x.npy", x)
    for given in (tmp_path / "x.npy", x, {"x": x}, (x, np.arange(6)), x.astype(np.float64)):
        np.testing.assert_array_equal(gathered(open_data(given, [ranged("x", 3)]))[0], x)


def test_an_iterator_gives_batches_rows_or_samples():
    x = rows(12, 3)
    for item in (lambda: ({"x": x[i:i + 3]} for i in range(0, 12, 3)), lambda: ({"x": r} for r in x), lambda: iter(x),
                 lambda: [x[:5], x[5:]]):
        got, sizes = gathered(open_data(item, [ranged("x", 3)]))
        np.testing.assert_array_equal(got, x)
        assert sizes == [4, 4, 4]
    assert gathered(open_data([x], [ranged("x", 3)], limit=5))[1] == [4, 1]


def test_pairs_of_inputs_and_labels():
    x = rows(6, 3)
    data = open_data([(x[:4], [0, 1, 2, 3]), (x[4], 4), (x[5], 5)], [ranged("x", 3)], need_labels=True)
    assert np.concatenate([b.labels for b in data.batches()]).tolist() == list(range(6))


def test_a_one_shot_iterator_is_kept_where_it_fits_and_else_refused_the_second_time():
    x = rows(6, 3)
    data = open_data(iter([x]), [ranged("x", 3)])
    assert data.samples is None
    assert gathered(data)[1] == gathered(data)[1] == [4, 2]
    assert data.samples == 6
    assert data.digest() == "" or len(data.digest()) == 64
    data = open_data(iter([x]), [ranged("x", 3)], keep_bytes=10)
    gathered(data)
    with pytest.raises(InputError, match="cannot start again"):
        gathered(data)


def test_a_walk_that_stops_early_takes_nothing_from_the_next():
    x = rows(9, 3)
    data = open_data(iter(x), [ranged("x", 3)])
    first = next(iter(data.batches()))
    np.testing.assert_array_equal(first.feeds["x"], x[:4])
    np.testing.assert_array_equal(gathered(data)[0], x)
    data = open_data((r for r in x), [ranged("x", 3)], keep_bytes=10)
    next(iter(data.batches()))
    with pytest.raises(InputError, match="cannot start again"):
        gathered(data)


def test_a_function_is_named_by_its_module(monkeypatch):
    module = types.ModuleType("samples_for_whet")
    module.batches = lambda: iter([rows(4, 3)])
    module.number = 3
    module.broken = lambda: (1 / 0 for _ in range(3))
    monkeypatch.setitem(sys.modules, "samples_for_whet", module)
    assert gathered(open_data("samples_for_whet:batches", [ranged("x", 3)]))[1] == [4]
    for name, why in (("number", "gives no data"), ("none", "cannot be found"), ("broken", "own code failed")):
        with pytest.raises(InputError, match=why):
            gathered(open_data(f"samples_for_whet:{name}", [ranged("x", 3)]))
    with pytest.raises(InputError, match="cannot be found"):
        open_data("no_such_module_at_all:f", [ranged("x", 3)])


def test_a_folder_of_arrays(tmp_path):
    x = rows(5, 3)
    for i, r in enumerate(x):
        np.save(tmp_path / f"{i}.npy", r) if i % 2 else np.savez(tmp_path / f"{i}.npz", x=r)
    data = open_data(tmp_path, [ranged("x", 3)])
    np.testing.assert_array_equal(gathered(data)[0], x)
    assert data.samples == 5
    assert open_data(tmp_path, [ranged("x", 3)], limit=2).samples == 2


# ---- images and labels ---------------------------------------------------------------------------


def image(path, value, size=(10, 8), mode="RGB"):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_images_are_stretched_to_the_models_input_by_default(tmp_path):
    for i in range(3):
        image(tmp_path / f"{i}.png", (0, 51 * i, 255))
    data = open_data(tmp_path, [ranged("x", 3, 4, 6)])
    x, _ = gathered(data)
    assert x.shape == (3, 3, 4, 6)
    np.testing.assert_allclose(x[:, :, 0, 0], [[0, 0.2 * i, 1] for i in range(3)], atol=1e-6)
    assert data.preprocessing == "image:resize=4x6"
    last, _ = gathered(open_data(tmp_path, [ranged("x", 4, 6, 3)]))
    np.testing.assert_array_equal(last, x.transpose(0, 2, 3, 1))
    gray, _ = gathered(open_data(tmp_path, [ranged("x", 1, 4, 6)]))
    assert gray.shape == (3, 1, 4, 6)


def test_preprocessing_resizes_crops_and_normalizes(tmp_path):
    from PIL import Image

    a = np.zeros((20, 40, 3), np.uint8)
    a[:, 20:] = (255, 127, 0)
    Image.fromarray(a).save(tmp_path / "a.png")
    how = Preprocess.parse("resize=10,crop=8x4,mean=0.5/0.25/0,std=0.5,colour=bgr,filter=nearest")
    assert how == Preprocess(10, (8, 4), mean=(0.5, 0.25, 0.0), std=(0.5,), colour="bgr", filter="nearest")
    x, _ = gathered(open_data(tmp_path, [ranged("x", 3, 8, 4)], preprocess=how))
    blue, green, red = x[0, :, 0, 3]
    assert (blue, green, red) == (pytest.approx(-1), pytest.approx((127 / 255 - 0.25) * 2), pytest.approx(2))
    np.testing.assert_allclose(x[0, :, 0, 0], [-1, -0.5, 0])


def test_the_key_of_preprocessing_tells_it_apart_and_reads_back():
    ways = ["", "resize=256", "resize=256x128", "crop=224", "mean=0.5", "scale=1", "layout=nhwc", "imagenet",
            "imagenet,crop=200"]
    keys = {Preprocess.parse(w).key() for w in ways}
    assert len(keys) == len(ways)
    for w in ways:
        assert Preprocess.parse(Preprocess.parse(w).key()) == Preprocess.parse(w)
    assert Preprocess.parse("scale=1/255").key() == "image:"
    for bad in ("resize=x", "what=1", "resize=-1", "mean=1/2", "std=0", "colour=red", "layout=chw", "filter=3",
                "scale=1/0", "scale=nan", "crop=3x4x5", "resize=999999"):
        with pytest.raises(InputError):
            Preprocess.parse(bad)


def test_folders_are_classes(tmp_path):
    for c in ("dog", "cat"):
        for i in range(3):
            image(tmp_path / c / f"{i}.png", (10, 20, 30))
    data = open_data(tmp_path, [ranged("x", 3, 8, 10)], need_labels=True)
    assert data.classes == ["cat", "dog"]
    assert [b.labels.tolist() for b in data.batches()] == [[0, 0, 0, 1], [1, 1]]
    few = open_data(tmp_path, [ranged("x", 3, 8, 10)], need_labels=True, limit=2)
    assert [b.labels.tolist() for b in few.batches()] == [[0, 1]]


def test_folders_that_are_numbers_are_labels(tmp_path):
    for c in ("10", "9"):
        image(tmp_path / c / "0.bmp", 7, mode="L")
    data = open_data(tmp_path, [ranged("x", 1, 8, 10)])
    assert [b.labels.tolist() for b in data.batches()] == [[10, 9]]
    assert data.classes == []


def test_labels_from_a_table(tmp_path):
    folder = tmp_path / "d"
    for i in range(3):
        image(folder / f"{i}.png", (1, 2, 3))
    (folder / "labels.csv").write_text("file,label\n0.png,2\n2,7\n1.png,5\n")
    assert [b.labels.tolist() for b in open_data(folder, [ranged("x", 3, 8, 10)]).batches()] == [[2, 5, 7]]
    other = tmp_path / "other.csv"
    other.write_text("0,a\n1,b\n2,a\n")
    data = open_data(folder, [ranged("x", 3, 8, 10)], labels=other)
    assert [b.labels.tolist() for b in data.batches()] == [[0, 1, 0]]
    assert data.classes == ["a", "b"]
    for text, why in (("0,a\n", "2 of 3 files have no label"), ("", "is empty"), ("0,a,b\n", "row 1"),
                      ("0,1\n0,2\n", "two labels"), ("0,a\n1\n", "row 2")):
        other.write_text(text)
        with pytest.raises(InputError, match=why):
            open_data(folder, [ranged("x", 3, 8, 10)], labels=other)
    other.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="labels"):
        open_data(folder, [ranged("x", 3, 8, 10)], labels=other)


# ---- fitting the batch ---------------------------------------------------------------------------


def test_a_static_batch_is_filled_up_with_repetitions():
    x = rows(10, 3)
    found = list(open_data(x, fixed({"x": (4, 3)})).batches())
    assert [b.feeds["x"].shape[0] for b in found] == [4, 4, 4]
    assert [b.count for b in found] == [4, 4, 2]
    np.testing.assert_array_equal(found[-1].feeds["x"], x[[8, 9, 8, 9]])
    assert [b.first for b in found] == [0, 4, 8]


def test_the_batch_can_be_chosen_within_the_models_range():
    assert gathered(open_data(rows(9, 3), [ranged("x", 3)], batch=8))[1] == [8, 1]
    with pytest.raises(InputError, match="batches of 9"):
        open_data(rows(9, 3), [ranged("x", 3)], batch=9)


def test_samples_of_different_sizes_do_not_share_a_batch():
    free = InputSpec("x", F32, (Extent(1, 4, 8, "n"), Extent(1, 5, 9, "s")))
    lengths = [3, 3, 5, 5, 5, 5, 5, 2]
    found = list(open_data([np.ones(n, np.float32) for n in lengths], [free]).batches())
    assert [b.feeds["x"].shape for b in found] == [(2, 3), (4, 5), (1, 5), (1, 2)]
    assert sum(b.count for b in found) == len(lengths)


def test_one_more_axis_means_a_whole_feed_per_sample():
    x, scale = rows(3, 2, 4), np.ones(3, np.float32)
    inputs = [ranged("x", 4), InputSpec("s", F32, ())]
    found = list(open_data({"x": x, "s": scale}, inputs).batches())
    assert [(b.feeds["x"].shape, b.feeds["s"].shape, b.count) for b in found] == [((2, 4), (), 1)] * 3
    assert len(list(open_data(rows(3, 4, 3), fixed({"x": (4, 3)})).batches())) == 3


def test_specs_come_from_a_graph():
    g = Graph()
    n = symbol("n")
    g.inputs = [Value("x", DType.F32, (n, 3)), Value("y", DType.I64, (2 * n,))]
    g.dims["n"] = (1, 2, 5)
    x, y = specs(g)
    assert (x.dtype, x.shape) == (F32, (Extent(1, 2, 5, "n"), Extent(3, 3, 3)))
    assert (y.shape[0].least, y.shape[0].best, y.shape[0].most) == (2, 4, 10)


# ---- what is refused -----------------------------------------------------------------------------


def spoilt(value, at=5):
    x = rows(8, 3)
    x[at, 1] = value
    return x


BAD = {
    "empty": (rows(0, 3), "no samples"),
    "empty list": ([], "no samples"),
    "empty mapping": ({}, "do not have the model's inputs"),
    "name": ({"y": rows(4, 3)}, "missing: x; unknown: y"),
    "one more": ({"x": rows(4, 3), "z": rows(4, 3)}, "unknown: z"),
    "rank": (rows(4, 3, 5, 2), "has the shape"),
    "size": (rows(4, 5), "dimension 1 is 5"),
    "size of one": ([rows(1, 3)[0], rows(1, 5)[0]], "sample 1"),
    "nan": (spoilt(np.nan), "'x' holds 1 NaN and 0 infinite values"),
    "inf": ([spoilt(np.inf, 0)], "'x' holds 0 NaN and 1 infinite"),
    "int": (rows(4, 3, dtype=np.uint8), "'x' holds uint8"),
    "bool": (rows(4, 3) > 1, "'x' holds bool"),
    "text": (np.array([["a", "b", "c"]]), "'x' holds"),
    "object": (np.array([[None] * 3]), "'x' holds object"),
    "complex": (rows(2, 3).astype(np.complex64), "complex"),
    "overflow": (rows(2, 3).astype(np.float64) + 1e300, "beyond float32"),
    "scalar": (np.float32(3), "single number|dimensions|type"),
    "number": (3, "type int"),
    "item": ([{"y": 1}], "missing: x"),
    "ragged": ([[[1.0], [1.0, 2.0]]], "no array"),
    "labels": ((rows(4, 3), [0, 1]), "different numbers"),
    "nan label": ((rows(2, 3), [0, np.nan]), "labels are NaN"),
    "text labels": ((rows(2, 3), ["a", "b"]), "array of numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_do_not_fit_are_refused(name):
    data, why = BAD[name]
    with pytest.raises(InputError, match=why) as e:
        list(open_data(data, [ranged("x", 3)]).batches())
    assert e.value.code.startswith("W2")


def test_whole_numbers_must_fit_the_models_type():
    spec = [ranged("x", 3, dtype=np.int8)]
    assert gathered(open_data(rows(2, 3, dtype=np.int64), spec))[0].dtype == np.int8
    with pytest.raises(InputError, match="outside int8"):
        list(open_data(rows(100, 3, dtype=np.int64), spec).batches())


@pytest.mark.parametrize("given", [rows(4, 3), [rows(4, 3)]])
def test_labels_are_asked_for_where_they_are_needed(given):
    with pytest.raises(InputError, match="have no labels"):
        list(open_data(given, [ranged("x", 3)], need_labels=True).batches())


def test_files_that_are_none_are_refused(tmp_path):
    spec = [ranged("x", 3)]
    cases = {"none.npz": None, "text.npz": b"hello", "text.npy": b"hello", "a.txt": b"1", "cut.npz": b"",
             "pickled.npz": b"", "fortran.npz": b"", "objects.npy": b""}
    for name, data in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    save(tmp_path / "cut.npz", x=np.random.default_rng(0).random((500, 3)))
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:200] + bytes(300) + whole[500:])
    np.savez(tmp_path / "pickled.npz", x=np.array([[None]]))
    np.savez(tmp_path / "fortran.npz", x=np.asfortranarray(rows(4, 3)))
    np.save(tmp_path / "objects.npy", np.array([[None]]))
    for name in cases:
        with pytest.raises(InputError) as e:
            list(open_data(tmp_path / name, spec).batches())
        assert name in str(e.value)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError, match="no samples"):
        open_data(folder, spec)
    (folder / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read"):
        list(open_data(folder, [ranged("x", 3, 4, 4)]).batches())
    np.save(folder / "b.npy", rows(1, 3))
    with pytest.raises(InputError, match="images and arrays"):
        open_data(folder, spec)


def test_an_npz_of_impossible_size_is_refused(tmp_path):
    import io
    import zipfile

    for shape in ((10**15, 3), (3, 10**15), (10**15, 0)):
        f = io.BytesIO()
        np.lib.format.write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as z:
            z.writestr("x.npy", f.getvalue())
        with pytest.raises(InputError):
            list(open_data(tmp_path / "a.npz", [ranged("x", 3)]).batches())


def test_one_sample_is_warned_of():
    assert open_data(rows(1, 3), [ranged("x", 3)]).warnings == [batches.ONE_SAMPLE]
    assert open_data(rows(2, 3), [ranged("x", 3)]).warnings == []


def test_equal_data_have_an_equal_digest(tmp_path):
    x = rows(6, 3)
    spec = [ranged("x", 3)]
    assert open_data(x, spec).digest() == open_data(x.copy(), spec).digest() != open_data(x + 1, spec).digest()
    streams = [open_data(iter(x), spec) for x in (x, x, x + 1)]
    a, b, c = ([list(s.batches()), s.digest()][1] for s in streams)
    assert a == b != c
    path = save(tmp_path / "a.npz", x=x)
    assert open_data(path, spec).digest() == open_data(path, spec).digest()
