"""Graph-to-graph passes, one file each, in one list.

`run` takes the graph of the frontend to the graph that lowering reads: operators clean, patterns recognized,
channels last, few transposes. `regions` then groups it into regions (`fuse`) and gives them their precision.
"""

from __future__ import annotations

from whet.passes.manager import PASSES, Pass, finish, prepare, regions, run

__all__ = ["PASSES", "Pass", "finish", "prepare", "regions", "run"]
