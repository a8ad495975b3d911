"""TensorRT as a backend, by its public Python API (version 10):
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from whet.compare.backends import Arrays, Backend, Outputs
from whet.errors import DeviceError, InputError, MissingExtraError, ModelError

FLAGS = {"fp32": (), "tf32": ("TF32",), "fp16": ("FP16",), "bf16": ("BF16",)}


def open_tensorrt(model: Path, feeds: Arrays, *, precision: str = "fp32") -> Backend:
    """Build an engine with fixed shapes and bind it to `feeds`: inputs from the host's memory, outputs to it, as whet's
    are. TF32, on by TensorRT's default, is off unless it is the precision.

    MissingExtraError without TensorRT or `cuda-bindings`; InputError for a precision that it has not; ModelError where
    it refuses the model, with its own words; DeviceError where CUDA fails.
    """
    if precision not in FLAGS:
        raise InputError(f"tensorrt has no {precision} here", do=f"choose among {', '.join(FLAGS)}")
    for name, line in (("tensorrt", "pip install tensorrt"), ("cuda", "pip install 'whet[cuda]'")):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"{name} is not installed", why="the tensorrt backend needs it", do=line)
    import tensorrt as trt

    start = time.perf_counter()
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        said = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise ModelError("tensorrt does not run this model", where=str(model), why=said[:2000], do="leave it out")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    for flag in FLAGS[precision]:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    profile = builder.create_optimization_profile()
    for n, a in feeds.items():
        profile.set_shape(n, a.shape, a.shape, a.shape)
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise ModelError("tensorrt builds no engine of this model", where=str(model), why=logger.last,
                         do="leave it out")
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(built)
    context = engine.create_execution_context()
    bound = _Bound(trt, engine, context, feeds)
    given = dict(feeds)
    loaded = time.perf_counter() - start
    return Backend("tensorrt", precision, trt.__version__, lambda: bound.call(given), bound.close, loaded, seconds,
                   gpus=(0,), call=bound.call, size_bytes=built.nbytes)


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):
        """Keeps the last error instead of printing it."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, msg: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.last = msg

    return Logger()


class _Bound:
    """Buffers on the GPU for one set of shapes, and a stream."""

    def __init__(self, trt: Any, engine: Any, context: Any, feeds: Arrays) -> None:
        from cuda.bindings import runtime as cuda

        self.cuda, self.context = cuda, context
        self.pointers: dict[str, int] = {}
        self.shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        self.engine = engine  # must outlive its context
        self.stream = self._ok(cuda.cudaStreamCreate())
        try:
            for i in range(engine.num_io_tensors):
                name = engine.get_tensor_name(i)
                if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                    context.set_input_shape(name, feeds[name].shape)
            for i in range(engine.num_io_tensors):
                name = engine.get_tensor_name(i)
                shape = tuple(context.get_tensor_shape(name))
                dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
                if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                    self.shapes[name] = shape, dtype
                size = max(1, int(np.prod(shape)) * dtype.itemsize)
                self.pointers[name] = self._ok(cuda.cudaMalloc(size))
                context.set_tensor_address(name, self.pointers[name])
        except BaseException:
            self.close()
            raise

    def _ok(self, result: tuple[Any, ...]) -> Any:
        if int(result[0]) != 0:
            raise DeviceError("CUDA failed under tensorrt", why=str(result[0]), do="whet doctor shows the GPUs")
        return result[1] if len(result) > 1 else None

    def call(self, arrays: Arrays) -> Outputs:
        kind = self.cuda.cudaMemcpyKind
        held = {n: np.ascontiguousarray(a) for n, a in arrays.items()}
        for n, a in held.items():
            self._copy(self.pointers[n], a.ctypes.data, a.nbytes, kind.cudaMemcpyHostToDevice)
        if not self.context.execute_async_v3(int(self.stream)):
            raise DeviceError("tensorrt does not run its engine", do="whet doctor shows the GPUs")
        out = {n: np.empty(shape, dtype) for n, (shape, dtype) in self.shapes.items()}
        for n, a in out.items():
            self._copy(a.ctypes.data, self.pointers[n], a.nbytes, kind.cudaMemcpyDeviceToHost)
        self._ok(self.cuda.cudaStreamSynchronize(self.stream))
        return out

    @property
    def _copy(self) -> Callable[[int, int, int, Any], None]:
        return lambda to, of, size, kind: self._ok(self.cuda.cudaMemcpyAsync(to, of, size, kind, self.stream))

    def close(self) -> None:
        for pointer in self.pointers.values():
            self.cuda.cudaFree(pointer)
        self.pointers.clear()
        if self.stream is not None:
            self.cuda.cudaStreamDestroy(self.stream)
            self.stream = None
