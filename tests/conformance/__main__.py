"""Runs ONNX's test suite through whet and counts: cases that pass, and those that pass on generated kernels alone.

    python tests/conformance                      both numbers, and what fails
    python tests/conformance --docs               also writes docs/conformance.md
    python tests/conformance --exceptions         also writes exceptions.toml (reasons that are there are kept)
    python tests/conformance --match PATTERN      only cases whose name has the regular expression
    python tests/conformance --target cuda        on a GPU; --docs keeps the counts in cuda.toml, for the page
    python tests/conformance --target cuda:sm_90 --build-only
                                                  counts what would run on kernels, without compiling any or a GPU
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import multiprocessing
import os
import re
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import onnx
from whet_backend import EXCEPTIONS, BuiltError, WhetBackend, cases, drawn, exceptions, generated

from whet.plan import Plan

DOCS = Path(__file__).parents[2] / "docs" / "conformance.md"
CUDA = Path(__file__).with_name("cuda.toml")
SEVERAL = "models of several operators"
GPU = "## On a GPU"
KINDS = ("native", "reference", "constant", "no")


@dataclass(frozen=True)
class Outcome:
    """One case: `native` (generated kernels alone), `reference` (something ran by a reference kernel or on the host),
    `constant` (nothing was left to compute that depends on an input) or `no` (it failed: why)."""

    name: str
    operator: str
    kind: str
    why: str = ""
    lacking: tuple[str, ...] = ()  # why regions run on the host


def run_case(home: str, name: str) -> Outcome:
    """Run one case of the suite."""
    import unittest

    case, result = cases(home)[name], unittest.TestResult()
    WhetBackend.model = WhetBackend.plan = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.run(result)
        if WhetBackend.rep is not None:  # thousands of them would fill a GPU
            WhetBackend.rep.engine.close()
            WhetBackend.rep = None
        bad = [text for _, text in (*result.errors, *result.failures, *result.skipped)
               if BuiltError.__name__ not in text or WhetBackend.plan is None]
        model, plan = WhetBackend.model, WhetBackend.plan
        operator = "" if model is None else _operator(model)
        if bad or plan is None or name in drawn():
            return Outcome(name, operator, "no", _reason(bad[0]) if bad else "passed by luck")
        steps = plan.summary()["steps"]
        if steps["reference"] or steps["host"]:
            return Outcome(name, operator, "reference", lacking=_lacking(plan))
        return Outcome(name, operator, "native" if generated() else "constant")


def _lacking(plan: Plan) -> tuple[str, ...]:
    """The kinds of the steps of a plan that run on the host for want of a kernel, and why."""
    rows = plan.summary()["layers"]
    return tuple(f"{r['kind']}: {r['reason']}" for r in rows if r.get("reason"))


def _operator(model: onnx.ModelProto) -> str:
    domain = {n.domain for n in model.graph.node} - {"", "ai.onnx"}
    ops = {n.op_type for n in model.graph.node}
    return next(iter(ops)) + (f" ({next(iter(domain))})" if domain else "") if len(model.graph.node) == 1 else SEVERAL


def _reason(trace: str) -> str:
    """One line of what went wrong: the error (the last of those that led to each other), and why where it says so."""
    lines = [line.strip() for line in trace.strip().splitlines()]
    start = next((i for i in reversed(range(len(lines))) if re.match(r"[\w.]*(Error|Exception)\b", lines[i])),
                 len(lines) - 1)
    said = [lines[start].split(": ", 1)[-1], *(line for line in lines[start + 1:start + 5] if line)]
    if "Not equal to tolerance" in lines[start] or lines[start] == "AssertionError:":
        said = [line for line in lines[start:] if line and not line.endswith("AssertionError:")][:3]
    return re.sub(r"\s+", " ", "; ".join(s for s in said if not s.startswith(("do:", "where:"))))[:180]


def by_operator(outcomes: list[Outcome]) -> dict[str, collections.Counter[str]]:
    """Counts per operator; a case that spells its operator's definition out counts for that operator."""
    single = {o.name: o.operator for o in outcomes if o.operator not in ("", SEVERAL)}
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for o in outcomes:
        base = re.sub(r"_expanded(_function)?(_ver\d+)?(_cpu)?$", "", o.name)
        table[o.operator if o.operator not in ("", SEVERAL) else single.get(base, SEVERAL)][o.kind] += 1
    return table


def document(outcomes: list[Outcome]) -> str:
    """docs/conformance.md."""
    out = io.StringIO()
    count = collections.Counter(o.kind for o in outcomes)
    passed = len(outcomes) - count["no"]
    print(f"""# Conformance

ONNX's own test suite (`onnx.backend.test` of onnx {onnx.__version__}, the version that whet pins), every case of it,
built with `opt_level=0` for one thread, compared for exact type and shape and within the suite's own tolerances:

| | cases |
|---|---|
| all | {len(outcomes)} |
| pass | {passed} |
| pass on generated kernels alone | {count["native"]} |

"Generated kernels alone" means that every computing step left in the plan is a kernel that whet generated or a view
(`plan.summary()["steps"]` counts no `reference` and no `host`; control flow has a key of its own), and that something
of what is computed depends on an input. The suite is part of the tests (`tests/conformance`); what does not pass is in
`tests/conformance/exceptions.toml`, one line each with the reason. `python tests/conformance --docs` makes this page.

Per operator, the cases that pass on generated kernels alone (native), those that pass with a reference kernel or a host
step somewhere (reference), those where nothing that depends on an input is left to compute (constant: the result is
known when the plan is built), and those that do not pass (no). A case that spells an operator's definition out counts
for that operator.

| operator | native | reference | constant | no |
|---|---|---|---|---|""", file=out)
    _rows({op: [row[k] for k in KINDS] for op, row in by_operator(outcomes).items()}, out)
    return out.getvalue() + gpu_section()


def gpu_section() -> str:
    """The page's last section, of what cuda.toml keeps; "" without one."""
    if not CUDA.exists():
        return ""
    told, out = tomllib.loads(CUDA.read_text()), io.StringIO()
    print(f"\n{GPU}\n", file=out)
    if "gpu" in told:
        print(f"""The same cases on an {told["gpu"]} (`python tests/conformance --target cuda`), where convolutions and
products may be library calls (cuDNN, cuBLASLt), which count as kernels do:

| | cases |
|---|---|
| all | {told["all"]} |
| pass | {told["passed"]} |
| pass on generated and library kernels alone | {told["native"]} |
""", file=out)
    else:
        print(f"""The same cases built for {told["built"]} without a GPU, so that nothing was run
(`python tests/conformance --target {told["built"]} --build-only`):

| | cases |
|---|---|
| all | {told["all"]} |
| build | {told["passed"]} |
| consist of generated kernels alone | {told["native"]} |
""", file=out)
    print("""\
| operator | native | reference | constant | no |
|---|---|---|---|---|""", file=out)
    _rows(told["operators"], out)
    if told["fails"]:
        print(f"\nWhat passes on the CPU and {'not there' if 'gpu' in told else 'does not build'}:\n", file=out)
        for name, why in told["fails"].items():
            print(f"- `{name}`: {why}", file=out)
    return out.getvalue()


def _rows(table: Mapping[str, Sequence[int]], out: io.StringIO) -> None:
    for op in sorted(table, key=lambda o: (o == SEVERAL, "(" in o, o)):
        print(f"| {op} |", " | ".join(str(n or "") for n in table[op]), "|", file=out)


def write_exceptions(outcomes: list[Outcome]) -> None:
    """Bring exceptions.toml up to date: new failures come with what they said, reasons that are there are kept."""
    known = exceptions()
    head = EXCEPTIONS.read_text().split("[fails]")[0]
    lines = [f"{o.name} = {json.dumps(known.get(o.name, o.why), ensure_ascii=False)}"
             for o in sorted(outcomes, key=lambda o: o.name) if o.kind == "no" and o.name not in drawn()]
    EXCEPTIONS.write_text(f"{head}[fails]\n" + "".join(f"{line}\n" for line in lines))


def record(outcomes: list[Outcome], built: str) -> None:
    """cuda.toml, and what the page says of GPUs. built: the target that the cases were built for, "" if they ran."""
    from whet.targets.cuda import device

    what = f"built = {json.dumps(built)}" if built else f"gpu = {json.dumps(device.require(0).name)}"
    count = collections.Counter(o.kind for o in outcomes)
    lines = ["# ONNX's suite on a GPU: `python tests/conformance --target cuda --docs` writes this.",
             what, f"all = {len(outcomes)}",
             f"passed = {len(outcomes) - count['no']}", f"native = {count['native']}",
             "", "[operators]"]
    table = by_operator(outcomes)
    lines += [f"{json.dumps(op)} = [{', '.join(str(row[k]) for k in KINDS)}]"
              for op, row in sorted(table.items())]
    lines += ["", "[fails]"]
    lines += [f"{o.name} = {json.dumps(o.why, ensure_ascii=False)}" for o in sorted(outcomes, key=lambda o: o.name)
              if o.kind == "no" and o.name not in exceptions() | drawn()]
    CUDA.write_text("\n".join([*lines, ""]))
    DOCS.write_text(DOCS.read_text().split(f"\n{GPU}\n")[0] + gpu_section())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="", metavar="PATTERN")
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--exceptions", action="store_true")
    parser.add_argument("--list", choices=KINDS[:3], action="append", default=[],
                        help="also name these cases")
    parser.add_argument("--target", default="cpu", help="cpu, cuda or cuda:sm_NN")
    parser.add_argument("--build-only", action="store_true", help="do not compile kernels for the GPU, nor run")
    parser.add_argument("--progress", action="store_true", help="say every now and then how far it is")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    if args.match and (args.docs or args.exceptions):
        parser.error("--docs and --exceptions need every case")
    if args.exceptions and args.target != "cpu":
        parser.error("the exceptions are the CPU's")
    WhetBackend.target, WhetBackend.build_only = args.target, args.build_only
    if args.target != "cpu":
        import in_process

        in_process.use(compiled=not args.build_only)
    with tempfile.TemporaryDirectory(prefix="whet-onnx-") as home:
        names = [n for n in sorted(cases(home)) if re.search(args.match, n)]
        # Forked: the workers have the cases already, and a case that brings its process down is seen as such.
        with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("fork")) as pool:
            outcomes = []
            for o in pool.map(run_case, [home] * len(names), names, chunksize=8):
                outcomes.append(o)
                if args.progress and len(outcomes) % 100 == 0:
                    print(len(outcomes), dict(collections.Counter(p.kind for p in outcomes)), flush=True)
    fails = exceptions() | drawn()
    lacking = collections.Counter(why for o in outcomes for why in o.lacking)
    if args.target != "cpu":
        for why, times in lacking.most_common():
            print(f"{times} steps on the host: {why}")
    for o in outcomes:
        if o.kind in args.list or (o.kind == "no" and (args.match or o.name not in fails)):
            print(f"{o.kind}: {o.name}: {o.why or o.operator}")
        elif o.kind != "no" and o.name in fails:
            print(f"passes now: {o.name}")
    count = collections.Counter(o.kind for o in outcomes)
    print(f"{len(outcomes) - count['no']} of {len(outcomes)} cases pass; "
          f"{count['native']} of them on generated kernels alone "
          f"({count['reference']} with a reference kernel or host step, {count['constant']} with nothing to compute)")
    if args.exceptions:
        write_exceptions(outcomes)
    if args.docs and args.target == "cpu":
        DOCS.write_text(document(outcomes))
    elif args.docs:
        record(outcomes, args.target if args.build_only else "")
    return 0 if all(o.name in fails for o in outcomes if o.kind == "no") else 1


if __name__ == "__main__":
    sys.exit(main())
