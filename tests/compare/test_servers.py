"""Servers that speak the Open Inference Protocol or TF Serving's REST are timed and checked, hostile ones refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import comparing
import numpy as np
import pytest

from whet import demo
from whet.compare import servers
from whet.compare.grid import Cell
from whet.compare.model import compare_model
from whet.errors import InputError, MissingExtraError, ServerError

FEEDS = {"image": np.linspace(0, 1, 128, dtype=np.float32).reshape(2, 1, 8, 8)}
Reply = tuple[int, bytes, dict[str, str]]


class StandIn:
    """An HTTP server on this machine; `answer(method, path, headers, body)` is what it says."""

    def __init__(self, answer: Callable[[str, str, Any, bytes], Reply]) -> None:
        outer = self
        self.asked: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _reply(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append((self.command, self.path))
                code, data, headers = answer(self.command, self.path, self.headers, body)
                self.send_response(code)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
                if headers.get("Connection") == "close":
                    self.close_connection = True

            do_GET = do_POST = _reply

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., StandIn]]:
    made: list[StandIn] = []

    def start(answer: Callable[[str, str, Any, bytes], Reply]) -> StandIn:
        made.append(StandIn(answer))
        return made[-1]

    yield start
    for s in made:
        s.close()


def digits() -> Callable[[np.ndarray], np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(demo.model_bytes(), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"image": x})[0]


def triton(run: Callable[[np.ndarray], np.ndarray], binary: bool) -> Callable[[str, str, Any, bytes], Reply]:
    """The protocol as Triton speaks it, with its extension for bytes or without."""
    def answer(method: str, path: str, headers: Any, body: bytes) -> Reply:
        if path == "/v2":
            extensions = ["binary_tensor_data"] if binary else []
            return 200, json.dumps({"name": "stand-in", "version": "1.2", "extensions": extensions}).encode(), {}
        if (method, path) != ("POST", "/v2/models/digits/infer"):
            return 404, b'{"error": "no such model"}', {}
        size = int(headers.get("Inference-Header-Content-Length", len(body)))
        [given] = json.loads(body[:size])["inputs"]
        assert given["datatype"] == "FP32"
        x = np.frombuffer(body[size:], np.float32) if binary else np.array(given["data"], np.float32)
        y = run(x.reshape(given["shape"]))
        out: dict[str, Any] = {"name": "logits", "datatype": "FP32", "shape": list(y.shape)}
        if binary:
            out["parameters"] = {"binary_data_size": y.nbytes}
        else:
            out["data"] = y.ravel().tolist()
        head = json.dumps({"model_name": "digits", "outputs": [out]}).encode()
        return 200, head + (y.tobytes() if binary else b""), \
            {"Inference-Header-Content-Length": str(len(head))} if binary else {}
    return answer


def tensorflow(run: Callable[[np.ndarray], np.ndarray]) -> Callable[[str, str, Any, bytes], Reply]:
    def answer(method: str, path: str, headers: Any, body: bytes) -> Reply:
        if (method, path) != ("POST", "/v1/models/digits/versions/3:predict"):
            return 404, b'{"error": "no such model"}', {}
        y = run(np.array(json.loads(body)["inputs"]["image"], np.float32))
        return 200, json.dumps({"outputs": {"logits": y.tolist()}}).encode(), {}
    return answer


def call(url: str) -> dict[str, np.ndarray]:
    server = servers.parse(url)
    opened = server.open(Cell(server.name, "as served", 2, None), FEEDS)
    try:
        return dict(opened.backend.run())
    finally:
        opened.backend.close()


@pytest.mark.parametrize("binary", [False, True])
def test_an_open_inference_endpoint_gives_the_model_s_outputs(serve: Callable[..., StandIn], binary: bool) -> None:
    run = digits()
    s = serve(triton(run, binary))
    np.testing.assert_allclose(call(f"{s.url}/v2/models/digits")["logits"], run(FEEDS["image"]), rtol=1e-5)


def test_tf_serving_gives_the_model_s_outputs(serve: Callable[..., StandIn]) -> None:
    run = digits()
    s = serve(tensorflow(run))
    np.testing.assert_allclose(call(f"{s.url}/v1/models/digits/versions/3")["logits"], run(FEEDS["image"]), rtol=1e-5)


def test_a_server_takes_turns_with_the_others_and_is_checked(serve: Callable[..., StandIn], tmp_path: Any) -> None:
    run = digits()
    good, wrong = serve(triton(run, True)), serve(triton(lambda x: run(x) + np.arange(10, dtype=np.float32), True))
    found = compare_model(comparing.options(
        tmp_path, backends=("onnxruntime",), servers=[f"{good.url}/v2/models/digits", f"{wrong.url}/v2/models/digits"]))
    local, right, off = found.rows
    assert right.place == f"{good.url}/v2/models/digits"
    assert right.record.error.value < 1e-5
    assert off.record.error.value > 0.1
    assert right.threads is None
    assert right.record.versions == {right.backend: "stand-in 1.2"}
    assert len(right.builds[0].rounds) == len(local.builds[0].rounds)
    assert {d.key for d in found.differences} == {right.key, off.key}
    assert not found.mixed_hardware


OK = b'{"name": "x", "version": "1", "extensions": []}'


def out(**change: Any) -> bytes:
    tensor = {"name": "logits", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4], **change}
    return json.dumps({"outputs": [tensor]}).encode()


@pytest.mark.parametrize("body, headers", [
    (b"", {}), (b"hello", {}), (b"[]", {}), (b'{"outputs": 3}', {}), (b"[" * 100000, {}), (b"\xff\xfe", {}),
    (out(shape=[2, 3]), {}), (out(shape=[-1, -4]), {}), (out(shape=[2] * 64), {}), (out(shape=[1 << 62, 1 << 62]), {}),
    (out(datatype="BYTES"), {}), (out(datatype="X" * 1000), {}), (out(data=["a", "b", "c", "d"]), {}),
    (out(data=None), {}), (out(data={"a": 1}), {}), (out(data=[[1], [2, 3]]), {}), (out(data=[1, 2, 3, 10 ** 400]), {}),
    (out(parameters={"binary_data_size": 16}), {}), (out(parameters={"binary_data_size": -16}), {}),
    (out(parameters={"binary_data_size": "16"}), {}), (out(), {"Inference-Header-Content-Length": "99999"}),
    (out(), {"Inference-Header-Content-Length": "-1"}), (out(), {"Inference-Header-Content-Length": "x"}),
    (out(), {"Content-Length": "100000", "Connection": "close"}),
    (json.dumps({"outputs": json.loads(out())["outputs"] * 2}).encode(), {})])
def test_an_answer_that_breaks_the_protocol_is_refused(serve: Callable[..., StandIn], body: bytes,
                                                       headers: dict[str, str]) -> None:
    s = serve(lambda method, path, h, b: (200, OK if method == "GET" else body, headers if method == "POST" else {}))
    with pytest.raises(ServerError) as e:
        call(f"{s.url}/v2/models/digits")
    assert len(str(e.value)) < 2000


@pytest.mark.parametrize("body", [b"{}", b'{"outputs": {"a": "text"}}', b'{"outputs": [[1], [2, 3]]}', b"[1]",
                                  b'{"outputs": null}'])
def test_a_prediction_that_is_no_tensor_is_refused(serve: Callable[..., StandIn], body: bytes) -> None:
    s = serve(lambda *_: (200, body, {}))
    with pytest.raises(ServerError):
        call(f"{s.url}/v1/models/digits")


def test_errors_are_told_without_what_terminals_obey(serve: Callable[..., StandIn]) -> None:
    s = serve(lambda *_: (500, b"\x1b[31mno" + b"x" * 10000, {}))
    with pytest.raises(ServerError, match="answers 500") as e:
        call(f"{s.url}/v2/models/digits")
    assert "\x1b" not in e.value.why
    assert len(e.value.why) <= 500


def test_redirects_are_not_followed(serve: Callable[..., StandIn]) -> None:
    other = serve(lambda *_: (200, OK, {}))
    s = serve(lambda *_: (302, b"", {"Location": other.url}))
    with pytest.raises(ServerError, match="302"):
        call(f"{s.url}/v2/models/digits")
    assert not other.asked


def test_answers_are_bounded(serve: Callable[..., StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "SMALL_BYTES", 1 << 20)
    s = serve(lambda *_: (200, b" " * (3 << 20), {}))
    with pytest.raises(ServerError, match="too large"):
        call(f"{s.url}/v2/models/digits")


def test_a_server_that_is_not_there(tmp_path: Any) -> None:
    with pytest.raises(ServerError, match="does not answer"):
        call("http://127.0.0.1:9/v2/models/digits")
    found = compare_model(comparing.options(tmp_path, backends=("onnxruntime",),
                                            servers=["http://127.0.0.1:9/v2/models/digits"]))
    assert found.rows[1].failure.code == "W520-server"  # told in its row; the others are measured


@pytest.mark.parametrize("url, kind, model, version, local", [
    ("http://localhost:8000/v2/models/resnet", "oip", "resnet", "", True),
    ("https://h/prefix/v2/models/a%20b/versions/2/infer", "oip", "a b", "2", False),
    ("http://127.0.0.2:8501/v1/models/m:predict", "tfserving", "m", "", True),
    ("http://[::1]:8501/v1/models/m/versions/7:predict", "tfserving", "m", "7", True),
    ("grpc://10.0.0.1:8001/m/3", "oip-grpc", "m", "3", False)])
def test_addresses_are_read(url: str, kind: str, model: str, version: str, local: bool) -> None:
    s = servers.parse(url)
    assert (s.kind, s.model, s.version, s.local) == (kind, model, version, local)


@pytest.mark.parametrize("url", ["", "x", "ftp://h/v2/models/x", "http:///v2/models/x", "http://h/", "http://h/v2/models/",
                                 "http://h/v2/models/x/y", "http://u:p@h/v2/models/x", "http://h:99999/v2/models/x",
                                 "http://h/v2/models/x?y", "grpc://h/m", "grpc://h:1/", "http://h/v2/models/x\n"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        servers.parse(url)


def test_grpc_asks_for_its_client() -> None:
    if servers.importlib.util.find_spec("tritonclient"):
        pytest.skip("tritonclient is installed")
    with pytest.raises(MissingExtraError, match="tritonclient"):
        call("grpc://127.0.0.1:9/digits")
