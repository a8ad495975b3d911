"""Ctrl-C at any moment: KeyboardInterrupt comes out, and native threads keep the memory that they use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Raises before each line of the functions in turn, as a signal that is handled there would.
AT_EVERY_LINE = """
import gc, sys
import numpy as np
from tiny_plans import chain
from whet.runtime import Context, load_data, pool

FUNCTIONS = [pool.Pool.__init__.__code__, pool._end.__code__, Context.close.__code__]
lines = [(f, n) for f in FUNCTIONS for n in sorted({n for *_, n in f.co_lines() if n and n > f.co_firstlineno})]
plan, x = chain(threads=2), {"x": np.ones((4, 5), np.float32)}
want = None

def interrupt(frame, event, arg):
    global due
    if event == "line" and due and (frame.f_code, frame.f_lineno) == due:
        due = None
        raise KeyboardInterrupt
    return interrupt if frame.f_code in FUNCTIONS else None

raised = 0
for due in lines:
    engine = None
    sys.settrace(interrupt)
    try:
        engine = load_data(plan)
        context = engine.context()
        got = context.run(x)["y"]
        assert want is None or np.array_equal(got, want)
        want = got
        engine.close()
    except KeyboardInterrupt:
        raised += 1
    finally:
        sys.settrace(None)
    if engine is not None:
        try:
            context.run(x)  # what an interrupted close left is whole, or says that it is closed
        except ValueError:
            pass
    engine = context = None
    gc.collect()
print("interrupted", raised, len(lines))
assert raised > 0.6 * len(lines)
"""

DAEMON = """
import threading, time
import numpy as np
from tiny_plans import chain
from whet.runtime import load_data

engine = load_data(chain(steps=200, columns=997), threads=2)
started = threading.Event()

def serve():
    context, x = engine.context(), {"x": np.ones((64, 997), np.float32)}
    while True:
        context.run(x)
        started.set()

threading.Thread(target=serve, daemon=True).start()
started.wait()
"""


def ended_well(code: str) -> str:
    """What it prints. A crash is a negative exit code."""
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], cwd=here, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_an_interrupt_before_any_line_of_loading_and_closing_crashes_nothing() -> None:
    assert "interrupted" in ended_well(AT_EVERY_LINE)


def test_a_daemon_thread_may_be_within_a_run_when_python_exits() -> None:
    for _ in range(3):
        ended_well(DAEMON)
