"""Measuring: timing, memory, accuracy, statistics, and the one record that every reported number lives in."""

from whet.measure.accuracy import centred_error, relative_l2
from whet.measure.device import this_device
from whet.measure.memory import peak_memory
from whet.measure.metrics import Metric, Scores, by_name
from whet.measure.record import Measurement
from whet.measure.timing import Series, alternate
from whet.measure.verdict import Verdict, judge

__all__ = ["Measurement", "Metric", "Scores", "Series", "Verdict", "alternate", "by_name", "centred_error", "judge",
           "peak_memory", "relative_l2", "this_device"]
