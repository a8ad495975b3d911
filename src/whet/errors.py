"""Typed errors. Every one says what happened, where, why, and what to do next."""

from __future__ import annotations


class WhetError(Exception):
    """Base of all errors that whet raises on purpose.

    `code` is stable and may be relied on by scripts; `exit_code` is what the command line
    returns (2: bad input or could not measure).
    """

    code = "WHET"
    exit_code = 2
    shown = False  # printed already, by whoever had more to do before the command could end

    def __init__(self, what: str, *, where: str = "", why: str = "", do: str = "") -> None:
        self.what, self.where, self.why, self.do = what, where, why, do
        super().__init__(what)

    def __str__(self) -> str:
        parts = [f"[{self.code}] {self.what}"]
        for label, text in (("where", self.where), ("why", self.why), ("do", self.do)):
            if text:
                parts.append(f"  {label}: {text}")
        return "\n".join(parts)


class ModelError(WhetError):
    """The model file is not a valid ONNX model (W1xx)."""

    code = "W100-model"


class ModelFileError(ModelError):
    """The model cannot be read: not there, not ONNX, truncated, external data missing or outside."""

    code = "W101-model-file"


class GraphError(ModelError):
    """The graph breaks a rule: a cycle, an undefined value, a type or shape that cannot be."""

    code = "W102-graph"


class UnsupportedError(ModelError):
    """An operator, attribute or type that whet does not run."""

    code = "W103-unsupported"


class WeightsError(ModelError):
    """Weights that are not those which a model was stripped of."""

    code = "W104-weights"


class InputError(WhetError):
    """An input of the wrong name, type, shape or outside the profile (W2xx)."""

    code = "W200-input"


class ProfileError(InputError):
    """A shape outside the optimization profile."""

    code = "W201-profile"


class UnreachableError(InputError):
    """An objective that nothing can meet, whatever it costs."""

    code = "W202-unreachable"


class PlanError(WhetError):
    """The plan file cannot be used (W3xx)."""

    code = "W300-plan"


class PlanFormatError(PlanError):
    """Not a plan, truncated, damaged or malformed."""

    code = "W301-plan-format"


class PlanVersionError(PlanError):
    """Written by a newer schema than this whet reads."""

    code = "W302-plan-version"


class FingerprintError(PlanError):
    """Built for other hardware than this machine's."""

    code = "W303-fingerprint"


class SignatureError(PlanError):
    """Not signed, or not by the required key."""

    code = "W304-signature"


class TuningError(WhetError):
    """No candidate could be compiled and run (W4xx)."""

    code = "W400-tuning"


class CacheError(WhetError):
    """The timing cache cannot be read or written."""

    code = "W401-cache"


class OutputError(WhetError):
    """An output file cannot be written: full disk, read-only folder, no permission (W5xx)."""

    code = "W500-output"


class StoreError(WhetError):
    """The measurement store cannot be reached or read."""

    code = "W510-store"


class StoreFormatError(StoreError):
    """Not a measurement store, or a damaged one."""

    code = "W511-store-format"


class StoreVersionError(StoreError):
    """The store's tables are of a newer whet, or of an older one where they cannot be brought up to date."""

    code = "W512-store-version"


class StoreBusyError(StoreError):
    """Others held the store for longer than was waited."""

    code = "W513-store-busy"


class StoreWriteError(StoreError):
    """The store cannot be written: full disk, read-only, no permission."""

    code = "W514-store-write"


class ServerError(WhetError):
    """A server does not answer, or not as its protocol says."""

    code = "W520-server"


class RemoteError(WhetError):
    """A command that measures on another host failed, or gave no measurements."""

    code = "W521-remote"


class MissingExtraError(WhetError):
    """An optional dependency is not installed (W6xx)."""

    code = "W600-missing-extra"

    @classmethod
    def for_package(cls, package: str, extra: str, purpose: str) -> MissingExtraError:
        """An error that names the package, what wants it, and the line that installs it."""
        return cls(f"{package} is not installed", why=f"{purpose} needs it",
                   do=f"pip install 'whet[{extra}]'")


class PluginError(WhetError):
    """A plugin's own code failed, or cannot be imported."""

    code = "W601-plugin"


class MissingPluginError(PluginError):
    """A plan or model needs a plugin that is not here."""

    code = "W602-missing-plugin"


class AccuracyError(WhetError):
    """No plan keeps the accuracy that was asked for (W7xx). `result` is the record of the search."""

    code = "W700-accuracy"
    exit_code = 1
    result: object = None


class DeviceError(WhetError):
    """A GPU, its driver or a library of it failed (W8xx)."""

    code = "W800-device"


class NoDeviceError(DeviceError):
    """No driver, no GPU, or none of that number."""

    code = "W801-no-device"


class DriverError(DeviceError):
    """The driver is too old for what it is asked to run, or does not fit the system."""

    code = "W802-driver"


class DeviceMemoryError(DeviceError):
    """The GPU's memory does not hold what is needed."""

    code = "W803-device-memory"


class LostDeviceError(DeviceError):
    """A kernel failed in a way that ends the process's work on that GPU: an illegal address, an uncorrectable error."""

    code = "W804-lost-device"


class InternalError(WhetError):
    """A fault of whet itself; the message says where."""

    code = "W900-internal"
    exit_code = 2
