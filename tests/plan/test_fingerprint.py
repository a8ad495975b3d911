"""Plans for other machines are refused before any of their code runs."""

from __future__ import annotations

import sys

import pytest
from tiny_plans import chain

import whet
from whet.errors import FingerprintError
from whet.plan import Plan, fingerprint
from whet.plan.manifest import Target
from whet.targets.cpu.isa import host


def test_code_for_this_machine_passes() -> None:
    fingerprint.check(Plan.from_data(chain()).manifest.target)


@pytest.mark.parametrize("change", [{"arch": "riscv64"}, {"features": ["avx2", "made-up"]}])
def test_code_for_another_machine_is_a_fingerprint_error(change: dict[str, object]) -> None:
    plan = Plan.from_data(chain(**change))
    with pytest.raises(FingerprintError) as e:
        whet.load(plan)
    assert e.value.do


def test_the_missing_features_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "cpu_flags", lambda: frozenset({"avx", "avx2", "asimd"}))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(FingerprintError, match="avx512f"):
        fingerprint.check(Target("linux", "x86_64", "avx512", ["avx", "avx512f"]))


def test_another_system_is_a_fingerprint_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    with pytest.raises(FingerprintError, match="plan9"):
        whet.load(Plan.from_data(chain()))


def test_every_feature_that_kernels_may_use_is_known() -> None:
    from whet.targets.cpu.isa import AVX2, AVX512

    for f in AVX2.features | AVX512.features | host().features:
        assert f in fingerprint._X86 or f in fingerprint._ARM
