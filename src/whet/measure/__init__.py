"""Measuring: timing, memory, accuracy, statistics, and the one record that every reported number lives in."""

from whet.measure.accuracy import centred_error, relative_l2

__all__ = ["centred_error", "relative_l2"]
