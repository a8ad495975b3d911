"""Resident memory of a process that loads and runs a model, measured in a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from whet.errors import InternalError, UnsupportedError
from whet.measure.record import Memory

_CHILD = """
import json, sys
def status(key):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key))
{imports}
idle = status("VmRSS:")
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")  # forget the peak of the imports
def body():
{body}
body()
print("\\n" + json.dumps([max(status("VmHWM:"), idle), idle]))
"""


def peak_memory(imports: str, body: str, arguments: Sequence[str] = (), timeout: float = 300) -> Memory:
    """Peak resident memory of `body` in a fresh interpreter, and that of the interpreter after `imports`.

    Both are Python source; `arguments` are its `sys.argv[1:]`. Memory-mapped files count as far as they are
    resident. UnsupportedError outside Linux, InternalError if the child fails (with its last lines).
    """
    if sys.platform != "linux":
        raise UnsupportedError("peak memory is measured on Linux only", why="it is read from /proc/self")
    code = _CHILD.format(imports=imports, body="\n".join("    " + line for line in body.splitlines()))
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=timeout,
                          check=False)
    if done.returncode:
        raise InternalError("the process whose memory was measured failed", why=done.stderr.strip()[-2000:])
    peak, idle = json.loads(done.stdout.splitlines()[-1])
    return Memory(peak_bytes=peak, idle_bytes=idle)
