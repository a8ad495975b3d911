"""Tests in several processes (pytest-xdist): those that ask for the whole machine are left to a run without `-n`, and
the files that take longest start first, so that no process ends with one of them while the others have nothing left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from whet.tuning.cuda import Team

if "PYTEST_XDIST_WORKER" in os.environ:  # read when NumPy or PyTorch is first imported: threads of several processes
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("whet", deadline=None)  # no test fails for taking long
settings.load_profile("whet")

LONGEST = ("test_cuda_models.py", "conformance/test_onnx_backend.py", "test_light_models.py",
           "targets/cuda/test_conv_depthwise_cuda.py",
           "fuzz/test_fuzz.py", "precision/test_trained_models.py", "frontends/test_sampling_operators.py",
           "cli/test_commands.py", "compare/test_remote.py", "compare/test_servers.py", "test_build.py",
           "test_bad_input.py", "tools/test_debug.py", "targets/cpu/test_grouped_products.py",
           "targets/cpu/test_amx_int8.py", "models/test_sklearn.py", "precision/test_build_int8.py",
           "tools/test_debug_cli.py", "decide/test_simulation.py", "store/test_store_commands.py")

NAMED = {"alone": ("mark.alone",), "models": ("mark.models",), "cuda": ("mark.cuda", "needs_cuda")}  # in a file's text


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # xdist would start with the files that have the most tests


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m` with one marker alone, or with `and not` others: files that do not name it are not imported."""
    marker = config.option.markexpr.partition(" and not ")[0]
    if marker in NAMED and collection_path.name.startswith("test_"):
        text = collection_path.read_text("utf-8")
        return not any(name in text for name in NAMED[marker]) or None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    if "PYTEST_XDIST_WORKER" in os.environ:
        skip = pytest.mark.skip(reason="compares times, or asks how much memory is free: pytest -m alone, without -n")
        for item in items:
            if item.get_closest_marker("alone"):
                item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def _brief_limits() -> Iterator[None]:
    """What the machine can do at most is measured for a moment: `compare/test_limits.py` shows that it is right."""
    from whet.compare import limits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of caches that are this module's own, so that its kernels are compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("cache")
        patch.setenv("WHET_CACHE", str(path))
        yield path


@pytest.fixture(scope="session")
def _team() -> Iterator[Team]:
    """Processes that compile and time for GPUs: this test process's part of the cores, twice, since they wait, too."""
    from whet.tuning import cuda
    from whet.tuning.pool import Crew

    size = max(2, 2 * cuda.cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    with Crew(min(size, cuda.cores()), cuda.WORKER) as compilers, Crew(1, cuda.WORKER, cuda.FATAL) as timer:
        yield cuda.Team(compilers, timer, users=1)


@pytest.fixture(scope="module")
def compilers(_team: Team, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Builds for GPUs share the processes that compile for them, which take longer to start and to open the GPU than
    most builds of tests take, and a folder of caches with the other test processes."""
    from whet.tuning import cuda

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHET_CACHE", str(folder / "compiled"))
        patch.setitem(cuda._teams, 0, _team)
        yield folder / "compiled"
