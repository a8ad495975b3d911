"""From a graph of regions to launches: where every value lives, and what runs in which order.

`outline` cuts a graph into native segments and host steps, `schedule` gives each value of a segment its storage,
`plan_memory` packs its temporaries into one arena, `complete` writes steps and weights.
"""

from whet.lowering.fallback import to_host
from whet.lowering.memory import Lifetime, plan_memory
from whet.lowering.program import Outline, complete, outline
from whet.lowering.states import agree, room_for
from whet.lowering.storage import Buffer, Launch, Schedule, Storage, schedule

__all__ = ["Buffer", "Launch", "Lifetime", "Outline", "Schedule", "Storage", "agree", "complete", "outline",
           "plan_memory", "room_for", "schedule", "to_host"]
