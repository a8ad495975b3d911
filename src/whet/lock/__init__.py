"""The lock: the versions of every tool that has a part in a figure, in one file, and what differs from it here."""

from whet.lock.check import Check, Difference, check
from whet.lock.matrix import Lock, Machine, here, read

__all__ = ["Check", "Difference", "Lock", "Machine", "check", "here", "read"]
