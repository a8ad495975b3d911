"""Runs plans: `Engine` (immutable, shared) and `Context` (one stream of work). Needs neither ONNX nor LLVM, unless
a plan has host steps that do."""

from whet.runtime.engine import Context, Engine, StepTime, load, load_data
from whet.runtime.feeds import Pointer

__all__ = ["Context", "Engine", "Pointer", "StepTime", "load", "load_data"]
