"""When will it be ready? Milestones as a compound process of effective optimizations, readiness of models from their
measurements; probabilities that back-tests hold to account."""

from whet.decide.forecast.milestones import Milestones, Settings, fit
from whet.decide.forecast.process import Prior, Process
from whet.decide.forecast.scale import Scale
from whet.decide.forecast.steps import Steps, find

__all__ = ["Milestones", "Prior", "Process", "Scale", "Settings", "Steps", "find", "fit"]
