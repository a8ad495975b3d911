"""Peak memory of each backend, in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from whet.compare.backends import HINTS
from whet.errors import InputError
from whet.measure import peak_memory
from whet.measure.record import Memory

# Each loads a model and runs it three times. Arguments: the model or plan, the inputs, threads (0: its default).
_FEEDS = "import sys\npath, inputs, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])\n" \
         "with numpy.load(inputs) as f: x = dict(f)\n"
_BODIES = {
    "whet": ("import numpy, whet.runtime",
             "e = whet.runtime.load(path, threads=threads or None)\nfor _ in range(3): e.context().run(x)"),
    "onnxruntime": ("import numpy, onnxruntime",
                    "o = onnxruntime.SessionOptions()\no.intra_op_num_threads = threads\n"
                    "s = onnxruntime.InferenceSession(path, o, providers=['CPUExecutionProvider'])\n"
                    "for _ in range(3): s.run(None, x)"),
    "openvino": ("import numpy, openvino",
                 "c = openvino.Core()\nm = c.read_model(path)\nm.reshape({k: v.shape for k, v in x.items()})\n"
                 "d = c.compile_model(m, 'CPU', "
                 "{'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': '{hint}'})\n"
                 "r = d.create_infer_request()\nfor _ in range(3): r.infer(x)"),
    "torch": ("import numpy, torch\nfrom whet.compare.torch_backend import open_torch",
              "b = open_torch(path, x, sys.argv[4].split('|'), precision='{precision}', threads=threads or None)\n"
              "for _ in range(3): b.run()"),
    "torch-compile": ("import numpy, torch\nfrom whet.compare.torch_backend import open_torch",
                      "b = open_torch(path, x, sys.argv[4].split('|'), precision='{precision}', "
                      "threads=threads or None, compiled=True)\nfor _ in range(3): b.run()"),
}


def memory_of(backend: str, precision: str, path: Path | str, feeds: Mapping[str, np.ndarray], threads: int | None,
              outputs: Sequence[str] = ()) -> Memory:
    """Peak resident memory of a process that loads `path` (a plan for whet, for PyTorch what `open_torch` takes, else
    ONNX) and runs it three times. `outputs`: the model's, for PyTorch.

    UnsupportedError outside Linux; InternalError if that process fails.
    """
    if backend not in _BODIES:
        raise InputError(f"no backend {backend!r}", why=f"there are {', '.join(_BODIES)}", do="choose among these")
    imports, body = _BODIES[backend]
    with tempfile.TemporaryDirectory(prefix="whet-") as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **dict(feeds))  # type: ignore[arg-type]
        body = _FEEDS + body.replace("{hint}", HINTS.get(precision, "f32")).replace("{precision}", precision)
        return peak_memory(imports, body, [str(path), str(inputs), str(threads or 0), "|".join(outputs)])
