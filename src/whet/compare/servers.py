"""Models behind a URL: the Open Inference Protocol v2 (REST, gRPC) and TensorFlow Serving's REST predict.

https://github.com/kserve/open-inference-protocol and https://www.tensorflow.org/tfx/serving/api_rest. What a server
answers is bounded, and checked against the schema before anything is read from it.
"""

from __future__ import annotations

import http.client
import importlib.util
import ipaddress
import math
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

import msgspec
import numpy as np

from whet.compare.backends import Arrays, Backend, Outputs
from whet.compare.grid import Cell
from whet.compare.openers import Opened
from whet.errors import InputError, MissingExtraError, ServerError
from whet.measure.record import Device

SECONDS = 60.0  # for one answer
MOST_BYTES = 256 << 20  # of one answer
SMALL_BYTES = 4 << 20  # of metadata and of errors
# https://kserve.github.io/website/latest/modelserving/data_plane/v2_protocol/#tensor-data-types
TYPES = {"BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
         "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64"}
NAMES = {v: k for k, v in TYPES.items()}


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] = {}


class _Answer(msgspec.Struct):
    outputs: list[_Tensor]


class _Metadata(msgspec.Struct):
    name: str = ""
    version: str = ""
    extensions: list[str] = []


@dataclass(frozen=True)
class Server:
    """A URL as it was given. `model` may have a version behind a slash; `name` is what its cells are called."""

    url: str
    kind: Literal["oip", "oip-grpc", "tfserving"]
    host: str
    port: int
    secure: bool
    prefix: str
    model: str
    version: str

    @property
    def name(self) -> str:
        """`resnet50 at localhost:8000 (OIP)`."""
        kind = {"oip": "OIP", "oip-grpc": "OIP gRPC", "tfserving": "TF Serving"}[self.kind]
        return f"{self.model}{f'/{self.version}' if self.version else ''} at {self.host}:{self.port} ({kind})"

    @property
    def local(self) -> bool:
        """Whether it runs on this machine, by its address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def open(self, cell: Cell, feeds: Arrays) -> Opened:
        """A connection, bound to `feeds`. ServerError where it does not answer as the protocol says."""
        if self.kind == "oip-grpc":
            return Opened(_grpc(self, feeds), None, "time of the client, network included")
        client = _Client(self)
        try:
            call = _oip(self, client, feeds) if self.kind == "oip" else _tfserving(self, client, feeds)
            call(feeds)
        except BaseException:
            client.close()
            raise
        bound = dict(feeds)
        return Opened(Backend(self.name, cell.precision, client.version, lambda: call(bound), client.close, call=call),
                      None, "time of the client, network included")


def parse(url: str) -> Server:
    """`http://host:8000/v2/models/NAME[/versions/V]` (any Open Inference Protocol endpoint),
    `http://host:8501/v1/models/NAME[/versions/V]` (TF Serving), or `grpc://host:8001/NAME[/V]`. InputError for others.
    """
    hint = "give http://host:8000/v2/models/NAME, http://host:8501/v1/models/NAME, or grpc://host:8001/NAME"
    try:
        u = urlsplit(url)
        host, port = u.hostname, u.port
    except ValueError as e:
        raise InputError(f"not a server: {url[:100]!r}", why=str(e), do=hint) from e
    if u.scheme not in ("http", "https", "grpc") or not host or u.query or u.fragment or not url.isprintable():
        raise InputError(f"not a server: {url[:100]!r}", why="it has no scheme, host or path that is known", do=hint)
    if u.username or u.password:
        raise InputError("a URL with a password", why="it would be in every report", do="leave it out")
    parts = [unquote(p) for p in u.path.strip("/").removesuffix("/infer").removesuffix(":predict").split("/")]
    if u.scheme == "grpc":
        if not 1 <= len(parts) <= 2 or not parts[0] or port is None:
            raise InputError(f"not a server: {url[:100]!r}", do=hint)
        return Server(url, "oip-grpc", host, port, False, "", parts[0], parts[1] if len(parts) == 2 else "")
    at = next((i for i in range(len(parts) - 2) if parts[i] in ("v1", "v2") and parts[i + 1] == "models"), None)
    rest = parts[at + 2:] if at is not None else []
    if at is None or not rest[0] or len(rest) not in (1, 3) or (len(rest) == 3 and rest[1] != "versions"):
        raise InputError(f"not a server: {url[:100]!r}", why="its path names no model", do=hint)
    return Server(url, "oip" if parts[at] == "v2" else "tfserving", host,
                  port or (443 if u.scheme == "https" else 80), u.scheme == "https",
                  "".join(f"/{quote(p, safe='')}" for p in parts[:at]), rest[0], rest[2] if len(rest) == 3 else "")


def unknown_device(server: Server) -> Device:
    """A machine of which only the address is known."""
    return Device(fingerprint=f"at {server.host}", name=f"not known, at {server.host}", arch="", cores=None)


class _Client:
    """One connection, kept open between calls. Redirects are not followed."""

    def __init__(self, server: Server) -> None:
        self.server, self.version = server, ""
        kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
        options: dict[str, Any] = {"timeout": SECONDS}
        if server.secure:
            kind, options["context"] = http.client.HTTPSConnection, ssl.create_default_context()
        self.connection = kind(server.host, server.port, **options)

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None,
            most: int = MOST_BYTES) -> tuple[bytes, Mapping[str, str]]:
        """The body of an answer 200, and its headers in lower case. ServerError for any other."""
        try:
            self.connection.request(method, path, body or None, dict(headers or {}))
            if self.connection.sock is not None:  # headers and body leave in two pieces, which Nagle would hold back
                self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answer = self.connection.getresponse()
            data = _bounded(answer, most if answer.status == 200 else SMALL_BYTES)
        except (OSError, http.client.HTTPException) as e:
            self.connection.close()
            raise self.error("the server does not answer", f"{type(e).__name__}: {e}") from e
        except ServerError as e:
            self.connection.close()
            raise self.error(e.what, e.why) from None
        if answer.status != 200:
            said = "".join(c if c.isprintable() else " " for c in data[:500].decode("utf-8", "replace"))
            raise self.error(f"the server answers {answer.status}", said)
        return data, {k.lower(): v for k, v in answer.getheaders()}

    def error(self, what: str, why: str) -> ServerError:
        return ServerError(what, where=self.server.url, why=why, do="check the address, the model and its inputs")

    def close(self) -> None:
        self.connection.close()


def _bounded(answer: http.client.HTTPResponse, most: int) -> bytes:
    """All of an answer, within bytes and seconds."""
    until, parts, size = time.monotonic() + SECONDS, list[bytes](), 0
    while part := answer.read1(1 << 20):
        size += len(part)
        if size > most:
            raise ServerError("the server's answer is too large", why=f"it is more than {most >> 20} MiB")
        if time.monotonic() > until:
            raise ServerError("the server's answer takes too long", why=f"it is not whole after {SECONDS:.0f} s")
        parts.append(part)
    left = answer.length
    if left:
        raise ServerError("the server's answer is cut short", why=f"{left} bytes are missing")
    answer.close()  # read1 leaves it open at its end, and the connection would not take the next request
    return b"".join(parts)


def _oip(server: Server, client: _Client, feeds: Arrays) -> Any:
    """The call of a REST endpoint: tensors as bytes where the server has that extension, else as JSON."""
    found = _decoded(client, client.ask("GET", f"{server.prefix}/v2", most=SMALL_BYTES)[0], _Metadata)
    client.version = " ".join(t for t in (found.name, found.version) if t)[:100]
    binary = "binary_tensor_data" in found.extensions
    version = f"/versions/{quote(server.version, safe='')}" if server.version else ""
    path = f"{server.prefix}/v2/models/{quote(server.model, safe='')}{version}/infer"
    _check_types(client, feeds)

    def call(arrays: Arrays) -> Outputs:
        tensors, blobs = list[dict[str, Any]](), list[bytes]()
        for n, a in arrays.items():
            t: dict[str, Any] = {"name": n, "shape": list(a.shape), "datatype": NAMES[a.dtype.name]}
            if binary:
                blobs.append(np.ascontiguousarray(a).tobytes())
                t["parameters"] = {"binary_data_size": len(blobs[-1])}
            else:
                t["data"] = a.reshape(-1).tolist()
            tensors.append(t)
        message: dict[str, Any] = {"inputs": tensors}
        if binary:
            message["parameters"] = {"binary_data_output": True}
        head = msgspec.json.encode(message)
        headers = {"Content-Type": "application/octet-stream" if binary else "application/json"}
        if binary:
            headers["Inference-Header-Content-Length"] = str(len(head))
        body, back = client.ask("POST", path, b"".join([head, *blobs]), headers)
        size = back.get("inference-header-content-length", str(len(body)))
        if not size.isascii() or not size.isdigit() or int(size) > len(body):
            raise client.error("the server's answer breaks the protocol", "its header's length is no part of it")
        answer = _decoded(client, body[:int(size)], _Answer)
        return _tensors(client, answer, memoryview(body)[int(size):])

    return call


def _tensors(client: _Client, answer: _Answer, rest: memoryview) -> dict[str, np.ndarray]:
    """The outputs by name, each as large as it says."""
    out: dict[str, np.ndarray] = {}
    for t in answer.outputs:
        if t.datatype not in TYPES:
            raise client.error(f"the server's output {t.name[:80]!r} is of the type {t.datatype[:20]!r}",
                               f"those that can be compared are {', '.join(TYPES)}")
        if len(t.shape) > 32 or any(d < 0 for d in t.shape):
            raise client.error("the server's answer breaks the protocol", f"a shape of {t.shape[:8]}")
        dtype, count = np.dtype(TYPES[t.datatype]), math.prod(t.shape)
        size = t.parameters.get("binary_data_size")
        if size is not None:
            if not isinstance(size, int) or size != count * dtype.itemsize or size > len(rest):
                raise client.error("the server's answer breaks the protocol", "an output's bytes are not as many as "
                                   "its shape and type need")
            array, rest = np.frombuffer(rest[:size], dtype), rest[size:]
        else:
            array = _flat(client, t.data, dtype, count)
        if t.name in out:
            raise client.error("the server's answer breaks the protocol", f"two outputs {t.name[:80]!r}")
        out[t.name] = array.reshape(t.shape)
    return out


def _flat(client: _Client, data: Any, dtype: np.dtype, count: int) -> np.ndarray:
    """JSON numbers, nested or not, as one row of `count`."""
    try:
        array = np.asarray(data)
        if array.dtype.kind not in "biuf" or array.size != count:
            raise ValueError(f"{array.size} values of {array.dtype} where the shape has {count}")
        with np.errstate(over="ignore", invalid="ignore"):
            return array.reshape(-1).astype(dtype)
    except (TypeError, ValueError, OverflowError, RecursionError) as e:
        raise client.error("the server's answer breaks the protocol", f"data that do not fit: {e}"[:300]) from e


def _tfserving(server: Server, client: _Client, feeds: Arrays) -> Any:
    """The call of `:predict` in columns: one tensor by itself, several by name."""
    version = f"/versions/{quote(server.version, safe='')}" if server.version else ""
    path = f"{server.prefix}/v1/models/{quote(server.model, safe='')}{version}:predict"
    client.version = "TF Serving REST v1"
    _check_types(client, feeds)

    def call(arrays: Arrays) -> Outputs:
        values = {n: a.tolist() for n, a in arrays.items()}
        message = msgspec.json.encode({"inputs": values})
        body, _ = client.ask("POST", path, message, {"Content-Type": "application/json"})
        answer = _decoded(client, body, dict[str, Any])
        found = answer.get("outputs")
        if found is None:
            raise client.error("the server's answer breaks the protocol", "it has no outputs")
        named = found if isinstance(found, dict) else {"": found}
        out = {}
        for name, value in named.items():
            try:
                out[name] = np.asarray(value)
                good = out[name].dtype.kind in "biuf"
            except (ValueError, RecursionError):
                good = False
            if not good:
                raise client.error("the server's answer breaks the protocol", f"the output {name[:80]!r} is no tensor")
        return out

    return call


def _check_types(client: _Client, feeds: Arrays) -> None:
    for n, a in feeds.items():
        if a.dtype.name not in NAMES:
            raise client.error(f"the input {n!r} is of {a.dtype}", "the protocol has no such type")


def _decoded(client: _Client, data: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
        raise client.error("the server's answer breaks the protocol", str(e)[:300]) from e


def _grpc(server: Server, feeds: Arrays) -> Backend:
    """By tritonclient's public API: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/
    client_guide/python.html"""
    if importlib.util.find_spec("tritonclient") is None or importlib.util.find_spec("grpc") is None:
        raise MissingExtraError("tritonclient is not installed", why="gRPC endpoints need it",
                                do="pip install 'tritonclient[grpc]', or give the endpoint's REST address")
    import tritonclient.grpc as triton

    address = f"[{server.host}]" if ":" in server.host else server.host
    client = triton.InferenceServerClient(f"{address}:{server.port}")

    def call(arrays: Arrays) -> Outputs:
        given = []
        for n, a in arrays.items():
            given.append(triton.InferInput(n, list(a.shape), NAMES[a.dtype.name]))
            given[-1].set_data_from_numpy(np.ascontiguousarray(a))
        answer = client.infer(server.model, given, model_version=server.version, client_timeout=SECONDS)
        return {o.name: answer.as_numpy(o.name) for o in answer.get_response().outputs}

    bound = dict(feeds)
    try:
        told = client.get_server_metadata(client_timeout=SECONDS)
        call(bound)
    except Exception as e:  # of tritonclient and of gRPC
        client.close()
        raise ServerError("the server does not answer", where=server.url, why=f"{type(e).__name__}: {e}"[:500],
                          do="check the address, the model and its inputs") from e
    return Backend(server.name, "as served", f"{told.name} {told.version}"[:100], lambda: call(bound), client.close,
                   call=call)
