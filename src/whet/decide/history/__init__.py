"""A metric's history: where its level changed, where it stands now, and where it will be h measurements on.

`segments(values)` finds the changes, `fit(values)` the level of the last segment, `.predict(h)` its distribution."""

from whet.decide.history.changes import Change, Segment, segments
from whet.decide.history.level import Level, fit
from whet.decide.history.predictive import Predictive
from whet.decide.history.scale import NoHistoryError

__all__ = ["Change", "Level", "NoHistoryError", "Predictive", "Segment", "fit", "segments"]
