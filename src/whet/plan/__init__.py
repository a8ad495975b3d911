"""The plan file: what it holds (`data`), its bytes (`layout`, `manifest`), writing, checked reading, hash tree,
signatures, and whether this machine can run it. Imports nothing of whet but errors and the driver's memory layout."""

from whet.plan.data import PlanData
from whet.plan.plan import Plan
from whet.plan.signing import generate_keys, sign
from whet.plan.writer import write

__all__ = ["Plan", "PlanData", "generate_keys", "sign", "write"]
