"""Finding out what is wrong: which layer departs, the least model that fails, what needs more bits, what varies."""

from whet.tools.debug.layers import layers
from whet.tools.debug.precision import precision
from whet.tools.debug.reduce import reduce
from whet.tools.debug.repeat import repeat

__all__ = ["layers", "precision", "reduce", "repeat"]
