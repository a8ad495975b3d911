"""whet sharpens trained models: ONNX in, a tuned plan out, run and measured.

    plan = whet.build("model.onnx", precision="bf16")
    plan.save("model.plan")
    engine = whet.load("model.plan")
    out = engine({"input": x})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whet.errors import WhetError

if TYPE_CHECKING:
    from whet.exporting import quantize
    from whet.loading import load
    from whet.pipeline import build
    from whet.plan import Plan
    from whet.plugins import plugin
    from whet.runtime import Context, Engine

__version__ = "0.1.0"
__all__ = ["Context", "Engine", "Plan", "WhetError", "__version__", "build", "load", "plugin", "quantize"]

_WHERE = {"build": "whet.pipeline", "load": "whet.loading", "Engine": "whet.runtime",
          "Context": "whet.runtime", "Plan": "whet.plan", "plugin": "whet.plugins", "quantize": "whet.exporting"}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: loading a plan must not import the compiler."""
    if name in _WHERE:
        import importlib

        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'whet' has no attribute {name!r}")
