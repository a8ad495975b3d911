"""A GPU as the tactics see it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU, or only a capability to build for.

    capability: (9, 0) for sm_90. `libraries`: versions of what may be called at run time (`cublas`, `cudnn`), empty
    where they are missing. `live`: this machine has it, so that library tactics can be asked and candidates timed.
    """

    capability: tuple[int, int]
    name: str = ""
    multiprocessors: int = 0
    shared_bytes: int = 0  # that one program may have
    l2_bytes: int = 0
    memory_bytes: int = 0
    bandwidth: float = 0.0  # bytes a second
    driver: str = ""
    libraries: dict[str, str] = field(default_factory=dict, hash=False)
    live: bool = False

    @property
    def arch(self) -> str:
        """`sm_90`."""
        return f"sm_{self.capability[0]}{self.capability[1]}"

    @property
    def number(self) -> int:
        """90 for sm_90: what Triton calls the target."""
        return 10 * self.capability[0] + self.capability[1]

    @property
    def has_fp8(self) -> bool:
        return self.capability >= (8, 9)


# What is typical of a capability, for cost models where there is no device: (multiprocessors, shared, L2, bandwidth).
_TYPICAL = {
    (7, 5): (40, 65536, 4 << 20, 320e9), (8, 0): (108, 166912, 40 << 20, 1555e9), (8, 6): (84, 101376, 6 << 20, 768e9),
    (8, 9): (142, 101376, 96 << 20, 864e9), (9, 0): (132, 232448, 50 << 20, 3350e9),
    (10, 0): (148, 232448, 126 << 20, 8000e9), (12, 0): (170, 101376, 96 << 20, 1792e9)}


def typical(capability: tuple[int, int]) -> Gpu:
    """A capability without a device. KeyError for one that whet has no figures of."""
    sms, shared, l2, rate = _TYPICAL[capability]
    return Gpu(capability, f"sm_{capability[0]}{capability[1]}", sms, shared, l2, 0, rate)
