"""Really trained models and test sets large enough to decide half a point: what a precision costs in accuracy."""
