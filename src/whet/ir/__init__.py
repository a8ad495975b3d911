"""The graph that whet works on: values, nodes, symbolic dimensions, and a small table of operators.

Each operator states its shape rule, its type rule and a NumPy reference in one place (`ops`).
"""

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.interpreter import interpret
from whet.ir.printer import to_text
from whet.ir.symbolic import Dim, Shape, Sym, symbol
from whet.ir.verify import verify

__all__ = ["DType", "Dim", "Graph", "Node", "Shape", "Sym", "Value", "interpret", "symbol", "to_text",
           "verify"]
