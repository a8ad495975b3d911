"""What other tools write: their formats, with figures of our own."""

from __future__ import annotations

import json
from typing import Any

LOG = """root@box:/w# trtexec --onnx=models/net.onnx --fp16
&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --onnx=models/net.onnx --fp16
[04/14/2026-01:43:06] [I] === Model Options ===
[04/14/2026-01:43:06] [I] Format: ONNX
[04/14/2026-01:43:06] [I] Model: models/net.onnx
[04/14/2026-01:43:06] [I] === Build Options ===
[04/14/2026-01:43:06] [I] Precision: FP32+FP16
[04/14/2026-01:43:06] [I] Streams: 2
[04/14/2026-01:43:06] [I] Selected Device: NVIDIA L4
[04/14/2026-01:43:06] [I] Compute Capability: 8.9
[04/14/2026-01:43:06] [I] Device Global Memory: 22478 MiB
[04/14/2026-01:43:06] [I] TensorRT version: 10.3.0
[04/14/2026-01:43:07] [I] [TRT] Loaded engine size: 10 MiB
[04/14/2026-01:43:10] [I] Input binding for images with dimensions 4x3x640x640 is created.
[04/14/2026-01:43:10] [I] Output binding for scores with dimensions 4x80 is created.
[04/14/2026-01:43:16] [I] Timing trace has 410 queries over 3.02161 s
[04/14/2026-01:43:16] [I] === Performance summary ===
[04/14/2026-01:43:16] [I] Throughput: 135.689 qps
[04/14/2026-01:43:16] [I] Latency: min = 9.5 ms, max = 10.25 ms, mean = 9.75 ms, median = 9.625 ms, \
percentile(90%) = 9.875 ms, percentile(95%) = 9.9 ms, percentile(99%) = 10.0 ms
[04/14/2026-01:43:16] [I] GPU Compute Time: min = 7.0 ms, max = 7.5 ms, mean = 7.3 ms, median = 7.25 ms, \
percentile(99%) = 7.4 ms
[04/14/2026-01:43:16] [I]
&&&& PASSED TensorRT.trtexec [TensorRT v100300] # trtexec --onnx=models/net.onnx --fp16
"""

CSV = """Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency,Avg latency
1,69.2,225,2148,64,206,11781,19,0,13891,18795,19753,21018,14443
4,84.2,279,1604,33669,233,11731,18,1,47045,56545,59225,64886,47535

Queue,of,another,table
"""
RATES = CSV.replace("Concurrency", "Request Rate")


def times(n: int = 200) -> list[dict[str, float]]:
    """--exportTimes: latencies of 10 ms and somewhat more."""
    return [{"startEnqMs": 11.0 * i, "endEnqMs": 11.0 * i + 1, "startH2dMs": 11.0 * i, "endH2dMs": 11.0 * i + 1,
             "startComputeMs": 11.0 * i + 1, "endComputeMs": 11.0 * i + 9, "startD2hMs": 11.0 * i + 9,
             "endD2hMs": 11.0 * i + 10, "h2dMs": 1.0, "computeMs": 8.0, "d2hMs": 1.0, "latencyMs": 10 + 0.01 * i}
            for i in range(n)]


PROFILE: list[dict[str, Any]] = [
    {"count": 410},
    {"name": "conv1 + relu", "timeMs": 410.0, "averageMs": 1.0, "medianMs": 0.75, "percentage": 80.0},
    {"name": "fc", "timeMs": 102.5, "averageMs": 0.25, "medianMs": 0.25, "percentage": 20.0}]

EXPORT: dict[str, Any] = {
    "version": "2.60.0", "service_kind": "triton", "endpoint": "", "experiments": [
        {"experiment": {"mode": "concurrency", "value": 2},
         "window_boundaries": [1_745_526_100_000_000_000, 1_745_526_101_000_000_000],
         "requests": [
             {"timestamp": 1_745_526_100_000_000_000, "response_timestamps": [1_745_526_100_010_000_000]},
             {"timestamp": 1_745_526_100_010_000_000,
              "response_timestamps": [1_745_526_100_015_000_000, 1_745_526_100_040_000_000]},
             {"timestamp": 1_745_526_100_990_000_000, "response_timestamps": [1_745_526_101_500_000_000]},
             {"timestamp": 1_745_526_100_995_000_000, "response_timestamps": []}]},
        {"experiment": {"mode": "request_rate", "value": 50},
         "requests": [{"timestamp": 5, "response_timestamps": [1_000_005]}]}]}

SUMMARY: dict[str, Any] = {
    "request_throughput": {"unit": "requests/sec", "avg": 9.5},
    "request_latency": {"unit": "ms", "avg": 1320.0, "p50": 1265.0, "p99": 2409.0, "min": 900.0, "max": 2500.0,
                        "std": 12.5},
    "time_to_first_token": {"unit": "ms", "avg": 336.0, "p50": 301.0, "p99": 812.0},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 1480.0},
    "output_sequence_length": {"unit": "tokens", "avg": 70.0},
    "input_config": {"model_names": ["llama"], "perf_analyzer": {"stimulus": {"concurrency": 10}}}}

PYTEST: dict[str, Any] = {
    "machine_info": {"node": "box", "processor": "x86_64", "machine": "x86_64", "python_version": "3.11.7",
                     "cpu": {"brand_raw": "Some CPU @ 2 GHz", "count": 8, "arch": "X86_64"}},
    "commit_info": {"id": "c0ffee", "dirty": False, "branch": "main"},
    "benchmarks": [
        {"group": None, "name": "test_net[8]", "fullname": "tests/test_net.py::test_net[8]", "params": {"n": 8},
         "param": "8", "extra_info": {}, "options": {},
         "stats": {"min": 0.9, "max": 1.6, "mean": 1.1, "stddev": 0.2, "rounds": 5, "median": 1.0, "iqr": 0.1,
                   "q1": 0.95, "q3": 1.05, "ops": 0.9, "iterations": 1, "data": [0.9, 1.0, 1.0, 1.0, 1.6]}},
        {"name": "test_other", "fullname": "tests/test_net.py::test_other",
         "stats": {"min": 0.1, "max": 0.2, "mean": 0.15, "stddev": 0.01, "rounds": 9, "median": 0.14, "q1": 0.12,
                   "q3": 0.16, "iterations": 1}},
        {"name": "test_failed", "fullname": "tests/test_net.py::test_failed", "stats": {}}],
    "datetime": "2026-03-04T05:06:07.123456", "version": "4.0.0"}

_COLUMNS = ["result", "params", "version", "started_at", "duration", "stats_ci_99_a", "stats_ci_99_b", "stats_q_25",
            "stats_q_75", "stats_number", "stats_repeat", "samples", "profile"]
ASV: dict[str, Any] = {
    "commit_hash": "e5e6e7", "env_name": "conda-py3.11", "date": 1703062645000, "python": "3.11",
    "params": {"arch": "arm64", "cpu": "Apple M2", "machine": "mini", "num_cpu": "8", "os": "macOS", "ram": "16GB",
               "python": "3.11"},
    "requirements": {"numpy": "1.26"}, "env_vars": {}, "result_columns": _COLUMNS,
    "results": {
        "suite.Net.time_run": [[0.25, None, 0.75, 1.0], [["8", "16"], ["'a'", "'b'"]], "1198fba41755", 1703063099923,
                               38.6, [0.24, None, float("-inf"), 0.9], [0.26, None, float("inf"), 1.1],
                               [0.245, None, 0.7, 0.95], [0.255, None, 0.8, 1.05], [4, None, 1, 1], [10, None, 1, 1]],
        "suite.Net.peakmem_run": [[123456], [], "22", 1703063099923, 1.0],
        "suite.Net.track_accuracy": [[0.93], [], "33"],
        "suite.Net.time_sampled": [[2.0], [], "44", None, None, [1.9], [2.1], [1.95], [2.05], [1], [3],
                                   [[1.9, 2.0, 2.1]]],
        "suite.Net.time_failed": None},
    "durations": {}, "version": 2}
ASV_OLD: dict[str, Any] = {
    "commit_hash": "0ld", "date": 1500000000000, "python": "3.6", "params": {"machine": "mini", "cpu": "old"},
    "requirements": {}, "benchmark_version": {"suite.time_a": "aaaa"}, "started_at": {"suite.time_a": 1500000001000},
    "results": {"suite.time_a": {"result": [0.5, 0.6], "params": [["1", "2"]],
                                 "stats": [{"ci_99": [0.4, 0.7], "q_25": 0.45, "q_75": 0.55, "n": 4}, None]},
                "suite.time_b": 0.125, "suite.time_c": None},
    "version": 1}
BENCHMARKS: dict[str, Any] = {
    "suite.Net.time_run": {"type": "time", "unit": "seconds", "param_names": ["batch", "kind"]},
    "suite.Net.track_accuracy": {"type": "track", "unit": "share"}, "version": 2}


def everything() -> dict[str, bytes]:
    """One output of each kind, by name."""
    as_json = {"times": times(20), "profile": PROFILE, "export": EXPORT, "summary": SUMMARY, "pytest": PYTEST,
               "asv": ASV, "asv old": ASV_OLD}
    return {"log": LOG.encode(), "csv": CSV.encode(), "rates": RATES.encode(),
            **{name: json.dumps(whole).encode() for name, whole in as_json.items()}}
