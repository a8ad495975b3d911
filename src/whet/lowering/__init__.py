"""From a graph of regions to launches: where every value lives, and what runs in which order.

`schedule(graph, accepts)` resolves views and gives each value its storage; `plan_memory` packs the
temporaries into one arena.
"""

from whet.lowering.memory import Lifetime, plan_memory
from whet.lowering.storage import Buffer, Launch, Schedule, Storage, schedule

__all__ = ["Buffer", "Launch", "Lifetime", "Schedule", "Storage", "plan_memory", "schedule"]
