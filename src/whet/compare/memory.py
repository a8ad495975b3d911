"""Peak memory of each backend, in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
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
}


def memory_of(backend: str, precision: str, path: Path, feeds: Mapping[str, np.ndarray], threads: int | None) -> Memory:
    """Peak resident memory of a process that loads `path` (a plan for whet, else ONNX) and runs it three times.

    UnsupportedError outside Linux; InternalError if that process fails.
    """
    if backend not in _BODIES:
        raise InputError(f"no backend {backend!r}", why=f"there are {', '.join(_BODIES)}", do="choose among these")
    imports, body = _BODIES[backend]
    with tempfile.TemporaryDirectory(prefix="whet-") as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **dict(feeds))  # type: ignore[arg-type]
        body = _FEEDS + body.replace("{hint}", HINTS[precision])
        return peak_memory(imports, body, [str(path), str(inputs), str(threads or 0)])
