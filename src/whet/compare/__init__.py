"""Backends side by side: the same model, inputs and threads, checked against each other and run in alternation;
and the limits of the hardware that they are measured against."""

from whet.compare import devices
from whet.compare.backends import PEERS, Backend, installed, open_peer, open_whet
from whet.compare.limits import Limits, measured_limits
from whet.compare.session import Reference, compare

__all__ = ["PEERS", "Backend", "Limits", "Reference", "compare", "devices", "installed", "measured_limits", "open_peer",
           "open_whet"]
