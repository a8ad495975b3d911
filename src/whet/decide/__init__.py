"""Decisions from measurements: fleets by queueing, money, trials. Everything here reads Measurement records or figures
that somebody typed in, and says which."""
