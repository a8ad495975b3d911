"""Whether a build may ship: objectives that a measurement keeps or not, and regressions against its own history."""

from whet.decide.gate.objectives import Objectives
from whet.decide.gate.regression import Check, Rules, check, detectable
from whet.decide.gate.result import Gate

__all__ = ["Check", "Gate", "Objectives", "Rules", "check", "detectable"]
