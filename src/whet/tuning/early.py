"""Whether kernels begin while the one before them ends (`targets.cuda.compile.early`): measured on the largest segment.

Both forms of a kernel compute the same, and which is faster depends on what stands beside it: so the decision is one
for the whole plan, by the time of a whole segment's graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from whet.lowering.storage import Launch
from whet.targets.cuda.target import CudaTarget
from whet.tuning.cache import Entry, TimingCache, Trial
from whet.tuning.found import EarlyLaunch, Progress, Tuned, key_of
from whet.tuning.in_place import BUDGET, Trials, digest, segment

GAIN = 0.99  # of the segment's time that early launches must stay under
PLAIN, EARLY = "plain", "early"
Answer = tuple[float | None, float | None, str]  # seconds without, seconds with, why there are none with


def decide(launches: Sequence[Launch], dims: Mapping[str, tuple[int, int, int]], target: CudaTarget,
           cache: TimingCache, opt_level: int, tuned: Tuned, progress: Callable[[Progress], None],
           ask: Callable[[Trials, Mapping[str, str]], Answer | None]) -> None:
    """Set `tuned.early`, from the cache if this segment with these choices was measured before.

    ask: times a segment; given also the codes of the kernels that have two forms, by symbol. None: it could not be
         asked now.
    """
    if not (target.gpu.live and target.launches_early and BUDGET[opt_level]) or len(launches) < 2:
        return
    regions = {l.region.signature(): l.region for l in launches}
    keys = {s: r.timing_key() for s, r in regions.items()}
    choices = {s: tuned.choices[s] for s in regions}
    parts = [(keys[s], choices[s].tactic, choices[s].params) for s in (l.region.signature() for l in launches)]
    known = key_of(cache, target, "early launch " + digest([*parts, tuned.one_stream]))
    entry = cache.get(known)
    if entry is None:
        plain, forms = ({step.kernel.symbol: step.kernel.code for s, r in regions.items()
                         for step in t.implement(r, choices[s].tactic, choices[s].params).steps}
                        for t in (target, target.timed))
        codes = {symbol: code for symbol, code in {**plain, **forms}.items() if (symbol in plain) != (symbol in forms)}
        asked = segment(launches, dims, target, tuned, BUDGET[opt_level]) if codes else None
        if asked is None:
            return
        progress(Progress(0, 1, "early launch"))
        answer = ask(asked, codes)
        if answer is None:
            return
        before, after, failed = answer
        trials = [Trial(PLAIN, {}, before), Trial(EARLY, {}, after, failed)]
        if before is not None and after is not None and after < GAIN * before:
            trials.reverse()
        entry = Entry("early launch", trials)
        cache.put(known, entry)
        cache.save()
    of = {t.tactic: t for t in entry.trials}
    tuned.early = EarlyLaunch(entry.trials[0].tactic == EARLY, of[PLAIN].seconds, of[EARLY].seconds, of[EARLY].failed)
