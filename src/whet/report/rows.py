"""Measurement records as the words and figures of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whet.measure.record import Accuracy, Device, Measurement, Quantile
from whet.measure.stats import wilson

NAMES = {"whet": "whet", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "torch": "PyTorch",
         "torch-compile": "PyTorch compiled", "tensorrt": "TensorRT"}


@dataclass(frozen=True)
class Row:
    """One record, formatted. Empty strings where nothing was measured."""

    label: str
    ours: bool
    accuracy: str
    median: str
    median_interval: str
    p99: str
    throughput: str
    size: str
    error: str
    ratios: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """The records of one model and one set of shapes, in the order given."""

    title: str
    records: tuple[Measurement, ...]

    @property
    def rows(self) -> list[Row]:
        return [row(r) for r in self.records]


def label(record: Measurement) -> str:
    """`whet bf16`, `ONNX Runtime fp32`."""
    return f"{NAMES.get(record.backend, record.backend)} {record.precision}"


def groups(records: Iterable[Measurement]) -> list[Group]:
    """Records by model and shapes, in order of first appearance."""
    found: dict[tuple[str, str], list[Measurement]] = {}
    for record in records:
        found.setdefault((record.model.name, shapes(record)), []).append(record)
    return [Group(f"{model}, {shape}", tuple(group)) for (model, shape), group in found.items()]


def shapes(record: Measurement) -> str:
    """`image 1x1x8x8`."""
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in record.shapes.items())


def threads(record: Measurement) -> str:
    """`2 threads`."""
    return f"{record.threads} threads" if record.threads is not None else "threads not known"


def cores(device: Device) -> str:
    """`2 cores`."""
    return f"{device.cores} cores" if device.cores is not None else "cores not known"


def row(record: Measurement) -> Row:
    """One record as text."""
    latency, accuracy, error = record.latency, record.accuracy, record.error
    return Row(
        label=label(record),
        ours=record.backend == "whet",
        accuracy=f"{_metric(accuracy, accuracy.value, 2)} of {accuracy.samples}" if accuracy else "",
        median=seconds(latency.p50.value) if latency else "",
        median_interval=interval(latency.p50) if latency else "",
        p99=seconds(latency.p99.value) if latency else "",
        throughput=f"{significant(record.throughput)}/s" if record.throughput is not None else "",
        size=size(record.plan.bytes) if record.plan else "",
        error=f"{error.value:.1e}" if error else "",
        ratios=tuple(f"{c.ratio:.2f}x ({c.low:.2f} to {c.high:.2f}) against "
                     f"{NAMES.get(c.backend, c.backend)} {c.precision}" for c in record.comparisons),
    )


def interval(quantile: Quantile) -> str:
    """`1.20 to 1.31 ms`: the 95 % interval; an open end is said so."""
    if quantile.low is None or quantile.high is None:
        return "too few samples to bound"
    return interval_text(quantile.value, quantile.low, quantile.high)


def interval_text(value: float, low: float, high: float) -> str:
    """`1.20 to 1.31 ms`, in the unit that suits the value; all are seconds."""
    scale, name = unit(value)
    return f"{significant(low * scale)} to {significant(high * scale)} {name}"


def accuracy_interval(record: Measurement) -> str:
    """The accuracy's 95 % interval as recorded, else Wilson's of a share such as top1."""
    accuracy = record.accuracy
    if accuracy is None:
        return ""
    if accuracy.low is not None and accuracy.high is not None:
        return f"{_metric(accuracy, accuracy.low, 1)} to {_metric(accuracy, accuracy.high, 1)}"
    found = wilson(round(accuracy.value * accuracy.samples), accuracy.samples)
    return f"{found.low:.1%} to {found.high:.1%}"


def _metric(accuracy: Accuracy, value: float, digits: int) -> str:
    """A share as percent; values of metrics that are none as they are."""
    share = accuracy.judged is None or accuracy.judged.unit == "points"
    return f"{value:.{digits}%}" if share else f"{value:.4g}"


def seconds(value: float) -> str:
    """`12.3 us`, `1.23 ms`, `2.50 s`."""
    scale, name = unit(value)
    return f"{significant(value * scale)} {name}"


def unit(value: float) -> tuple[float, str]:
    """The factor and name of the unit that suits a time in seconds."""
    if value < 1e-3:
        return 1e6, "us"
    return (1e3, "ms") if value < 1 else (1.0, "s")


def significant(value: float) -> str:
    """Three significant digits, thousands separated: `0.123`, `12.3`, `1,230`."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        digits = len(str(int(abs(value))))
        return f"{round(value, 3 - digits):,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def size(count: int) -> str:
    """`1.2 MiB`."""
    for scale, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= scale:
            return f"{count / scale:.1f} {name}"
    return f"{count} bytes"


def findings(records: Sequence[Measurement]) -> list[str]:
    """What the measurements say, in sentences; a ratio counts only if its whole interval lies on one side of one."""
    out = []
    for group in groups(records):
        for record in group.records:
            for c in record.comparisons:
                other = f"{NAMES.get(c.backend, c.backend)} {c.precision}"
                if c.low > 1:
                    verdict = f"{c.ratio:.2f} times as fast as {other}"
                elif c.high < 1:
                    verdict = f"slower than {other}: {c.ratio:.2f} times its speed"
                else:
                    verdict = f"not told apart from {other}"
                out.append(f"{group.title}: {label(record)} is {verdict} "
                           f"(95 % interval {c.low:.2f} to {c.high:.2f}, {c.rounds} rounds in turns).")
            if record.error and record.error.limit and record.error.value > record.error.limit:
                out.append(f"{group.title}: {label(record)} is off by {record.error.value:.1e}, "
                           f"more than the {record.error.limit:.0e} that is allowed.")
    return out


def tools(records: Sequence[Measurement]) -> str:
    """`numpy 2.4.6, onnx 1.23.2`: the tools that records carry; where they differ, `numpy 2.3.0 / 2.4.6`."""
    found: dict[str, dict[str, None]] = {}
    for r in records:
        for name, version in r.tools.items():
            found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' / '.join(versions)}" for name, versions in sorted(found.items()))


def locks(records: Sequence[Measurement]) -> str:
    """The beginnings of the hashes of the locks that records were made under."""
    return ", ".join(dict.fromkeys(r.lock[:16] for r in records if r.lock))
