"""PyTorch as a backend: a module named as `package.module:callable`, or exported (`torch.export.save`)."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from whet.compare.backends import Arrays, Backend, Outputs
from whet.errors import InputError, MissingExtraError, PluginError

FLOATS = {"bf16": "bfloat16", "fp16": "float16"}


def open_torch(spec: str, feeds: Arrays, outputs: Sequence[str], *, precision: str = "fp32", threads: int | None = None,
               compiled: bool = False, device: str = "cpu", fresh: bool = False) -> Backend:
    """A module bound to `feeds`, which it is given by position; its results have the names `outputs`, in order.

    spec:      `package.module:callable` (called without arguments, gives a `torch.nn.Module`; the current folder is
               searched too), or a `.pt2` file. The weights are the caller's to load: a comparison says how far outputs
               are from the ONNX model's.
    precision: `bf16` and `fp16` cast the whole module, and its inputs at each call.
    compiled:  `torch.compile` with its defaults; `build_seconds` is the first call. fresh: without its caches.

    MissingExtraError without PyTorch; InputError for a name that there is not, or a module that takes other inputs;
    PluginError where the module's own code fails.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError.for_package("torch", "models", "the torch backend")
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    start = time.perf_counter()
    module = _module(spec)
    dtype = getattr(torch, FLOATS[precision]) if precision in FLOATS else None
    module = module.to(device) if dtype is None else module.to(device=device, dtype=dtype)
    seconds = time.perf_counter() - start
    function: Callable[..., Any] = module
    if compiled:
        function = torch.compile(module)

    def call(arrays: Arrays) -> Outputs:
        with torch.inference_mode():
            given = [torch.from_numpy(np.require(a, requirements=["C", "W"])).to(device) for a in arrays.values()]
            if dtype is not None:
                given = [t.to(dtype) if t.is_floating_point() else t for t in given]
            return _named(function(*given), outputs)

    build = None
    start = time.perf_counter()
    try:
        with _caches(compiled and fresh):
            call(feeds)
    except (InputError, PluginError):
        raise
    except Exception as e:
        raise PluginError("the PyTorch module failed", where=spec, why=f"{type(e).__name__}: {e}"[:2000],
                          do="it takes the model's inputs by position, in their order") from e
    if compiled:
        build = time.perf_counter() - start
    bound = dict(feeds)
    size = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    return Backend("torch-compile" if compiled else "torch", precision, str(torch.__version__), lambda: call(bound),
                   torch._dynamo.reset if compiled else lambda: None, seconds, build,
                   gpus=(0,) if device != "cpu" else (), call=call, size_bytes=size)


def _caches(disabled: bool) -> AbstractContextManager[Any]:
    """Within, what `torch.compile` compiles is not looked up in its caches."""
    if not disabled:
        return nullcontext()
    import torch._inductor.config as inductor  # not there before it is asked for

    return inductor.patch(force_disable_caches=True)


def check(spec: str) -> None:
    """InputError if a spec is neither form, before anything is measured."""
    if spec.endswith(".pt2"):
        if not Path(spec).is_file():
            raise InputError("there is no such exported module", where=spec, do="check the path")
        return
    module, colon, name = spec.partition(":")
    if not colon or not module or not name:
        raise InputError(f"--torch {spec}", why="it is package.module:callable, or a .pt2 file",
                         do="name a function that gives a torch.nn.Module")


def _module(spec: str) -> Any:
    """The module, for inference."""
    import torch

    check(spec)
    if spec.endswith(".pt2"):
        return torch.export.load(spec).module()  # has no eval(): it is exported for one mode
    where, _, name = spec.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(where)
        for part in name.split("."):
            found = getattr(found, part)
        module = found()
    except Exception as e:  # whatever a module does
        raise PluginError("the PyTorch module cannot be made", where=spec, why=f"{type(e).__name__}: {e}"[:2000],
                          do="name a function that gives it: package.module:callable, importable from here") from e
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
    if not isinstance(module, torch.nn.Module):
        raise InputError("this gives no PyTorch module", where=spec, why=f"but a {type(module).__name__}",
                         do="return a torch.nn.Module")
    return module.eval()


def _named(result: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """A module's results by the ONNX model's names: of a mapping that has them, else by order."""
    import torch

    if isinstance(result, Mapping):
        values = [result[n] for n in names] if all(n in result for n in names) else list(result.values())
    elif isinstance(result, torch.Tensor):
        values = [result]
    else:
        values = list(result)
    values = [v for v in values if isinstance(v, torch.Tensor)]
    if len(values) < len(names):
        raise InputError(f"the PyTorch module gives {len(values)} tensors", why=f"the model gives {len(names)}",
                         do="return them in the model's order")
    out = {}
    for name, v in zip(names, values):
        v = v.float() if v.dtype in (torch.bfloat16, torch.float16) else v
        out[name] = v.cpu().numpy()
    return out
