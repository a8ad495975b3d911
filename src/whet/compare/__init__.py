"""Backends side by side: the same model, inputs and threads, run in alternation."""

from whet.compare.backends import BACKENDS, Backend, open_backend

__all__ = ["BACKENDS", "Backend", "open_backend"]
