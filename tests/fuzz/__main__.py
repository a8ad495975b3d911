"""Throws damaged models, plans and inputs at whet, in child processes.

    python tests/fuzz --count 100000 --jobs 2     some 15 minutes; exit code 1 where something was found
    python tests/fuzz --count 2000 --kinds plan   mutated plan files alone
    python tests/fuzz --case model:1234           one case again, with its traceback

What counts as found: a process that dies, a case that takes over 10 s, more than 2 GiB of memory, or an exception
that is not whet's own (or is its InternalError). Each case is told by its kind and number, and is the same wherever
the corpus is. What was tried is kept in `--keep`.
"""

from __future__ import annotations

import argparse
import collections
import json
import selectors
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KINDS = ("bytes", "model", "plan", "feeds")
SECONDS = 10.0
MIB = 2048


@dataclass
class Child:
    """A process that does cases, and the one that it does."""

    corpus: Path
    keep: Path
    process: subprocess.Popen[str] = field(init=False)
    case: dict[str, Any] | None = None
    since: float = 0.0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long as the process)
        self.process = subprocess.Popen([sys.executable, str(HERE / "worker.py"), str(self.corpus)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)

    def give(self, case: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.case, self.since = case, time.monotonic()
        self.process.stdin.write(json.dumps({**case, "keep": str(self.keep)}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The answer, or how the process died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return dict(json.loads(line))
        code = self.process.wait()
        self.errors.seek(0)
        text = [l.strip() for l in self.errors.read().splitlines() if l.strip()]
        at = next((l for l in text if l.startswith("File")), text[-1] if text else "")
        self.start()
        return {"outcome": "crash", "what": f"exit code {code}", "at": at}

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def verdict(answer: dict[str, Any]) -> str:
    """What is wrong with an answer, "" for nothing."""
    if answer["outcome"] in ("crash", "hang", "untyped"):
        return str(answer["outcome"])
    return "slow" if answer["seconds"] > SECONDS else "memory" if answer["mib"] > MIB else ""


def fuzz(count: int, kinds: tuple[str, ...], seed: int, jobs: int, seconds: float, corpus: Path, keep: Path
         ) -> tuple[collections.Counter[str], list[dict[str, Any]]]:
    """How often what came out, and what was found."""
    outcomes: collections.Counter[str] = collections.Counter()
    found: list[dict[str, Any]] = []
    keep.mkdir(parents=True, exist_ok=True)
    children = [Child(corpus, keep / f"current-{i}") for i in range(jobs)]
    cases = iter([{"kind": kinds[i % len(kinds)], "seed": seed + i // len(kinds)} for i in range(count)])
    end = time.monotonic() + seconds
    try:
        with selectors.DefaultSelector() as ready:
            def hand(child: Child) -> None:
                case = next(cases, None) if time.monotonic() < end else None
                child.case = None
                if case is not None:
                    ready.register(child.process.stdout, selectors.EVENT_READ, child)  # type: ignore[arg-type]
                    child.give(case)

            for child in children:
                hand(child)
            while any(c.case for c in children):
                events = ready.select(1.0)
                late = [c for c in children if c.case and time.monotonic() - c.since > 3 * SECONDS]
                for child in late:  # three times, for the first case of a process waits for its imports
                    child.process.kill()
                for child in [k.data for k, _ in events]:
                    case = child.case
                    ready.unregister(child.process.stdout)
                    answer = child.answer()
                    if child in late:
                        answer["outcome"] = "hang"
                    wrong = verdict(answer)
                    outcomes[wrong or answer["outcome"]] += 1
                    if wrong:
                        name = f"{case['kind']}-{case['seed']}"
                        if child.keep.exists():
                            child.keep.replace(keep / name)
                        found.append({"case": f"{case['kind']}:{case['seed']}", "wrong": wrong, **answer})
                        print(json.dumps(found[-1]), flush=True)
                    hand(child)
    finally:
        for child in children:
            child.stop()
    return outcomes, found


def main() -> int:
    """Fuzz, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--corpus", type=Path, help="folder of the corpus, made where there is none (a minute)")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "whet-fuzz")
    parser.add_argument("--small", action="store_true", help="a corpus without ONNX's own test models")
    parser.add_argument("--case", help="KIND:SEED, run here")
    o = parser.parse_args()
    corpus = o.corpus or o.keep / "corpus"
    if not (corpus / "plans").is_dir():
        subprocess.run([sys.executable, str(HERE / "corpus.py"), str(corpus), *["--small"] * o.small],
                       check=True)
    if o.case:
        from worker import do

        kind, seed = o.case.split(":")
        do({"kind": kind, "seed": int(seed)}, corpus, o.keep / "case")
        return 0
    start = time.monotonic()
    outcomes, found = fuzz(o.count, tuple(o.kinds.split(",")), o.seed, o.jobs, o.seconds, corpus, o.keep)
    print(f"{sum(outcomes.values())} cases in {time.monotonic() - start:.0f} s: {dict(outcomes.most_common())}")
    places = collections.Counter((f["wrong"], f.get("at", "")) for f in found)
    for (wrong, at), n in places.most_common():
        print(f"  {n} x {wrong} at {at}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
