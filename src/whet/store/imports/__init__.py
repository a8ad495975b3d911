"""Measurements of other tools as records: trtexec, perf_analyzer and GenAI-Perf, pytest-benchmark, asv.

What a tool does not say is not made up: it is empty in the record, or asked for.
"""

from whet.store.imports.common import Given, Imported
from whet.store.imports.files import KINDS, convert, expand, load, read

__all__ = ["KINDS", "Given", "Imported", "convert", "expand", "load", "read"]
