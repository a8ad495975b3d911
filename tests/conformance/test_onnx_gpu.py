"""A sample of ONNX's test suite on GPUs: what its plans consist of, and, where there is a GPU, that they are right.
`python tests/conformance --target cuda` runs all of it."""

from __future__ import annotations

import in_process
import pytest
from whet_backend import BuiltError, WhetBackend, cases, drawn, exceptions, home

from targets.cuda.on_device import needs_cuda
from whet.plan.program import Host
from whet.tuning import cuda

CASES = cases(home())
SOUND = [n for n in sorted(CASES) if n not in exceptions() and n not in drawn()]


@pytest.fixture
def backend(monkeypatch):
    """The suite's backend, building in this process."""
    monkeypatch.setattr(cuda, "Crew", in_process.InProcess)
    for name in ("target", "build_only", "model", "plan", "rep"):
        monkeypatch.setattr(WhetBackend, name, getattr(WhetBackend, name))
    return WhetBackend


@pytest.mark.filterwarnings("ignore")
def test_every_region_of_a_sample_has_a_kernel_for_gpus(backend, monkeypatch):
    monkeypatch.setattr(in_process.InProcess, "worker", in_process.Uncompiled())
    backend.target, backend.build_only = "cuda:sm_90", True
    for name in SOUND[::90]:
        case = CASES[name]
        with pytest.raises(BuiltError):
            getattr(case, case._testMethodName)()
        steps = [s for b in backend.plan.manifest.programs[0].blocks for s in b.steps]
        assert not [s.label for s in steps if isinstance(s, Host) and s.kind == "region"], name


@needs_cuda
@pytest.mark.parametrize("name", SOUND[::45])
@pytest.mark.filterwarnings("ignore")
def test_a_sample_is_right_on_the_gpu(backend, name):
    backend.target = "cuda"
    case = CASES[name]
    getattr(case, case._testMethodName)()
    if backend.rep is not None:
        backend.rep.engine.close()
