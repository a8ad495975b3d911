"""A context's runs come one after the other, on whatever streams they are."""

from __future__ import annotations

from typing import Any

from whet.errors import InputError
from whet.runtime.cuda.driver import Device, Owned


class Order:
    """The stream of a context's last run, and what the next one has to wait for. The context's own stream is first."""

    def __init__(self, device: Device, first: Any) -> None:
        self.device = device
        self.first = self.last = first
        self._number = self._first_number = int(first)
        self._event = Owned(device, device.event())
        self._recorded = False

    def own(self, stream: Any) -> bool:
        """True for the context's own stream."""
        return int(stream) == self._first_number

    @property
    def elsewhere(self) -> bool:
        """True if the last run was on a caller's stream."""
        return self._number != self._first_number

    def switch(self, stream: Any) -> None:
        """What comes next is for this stream: it waits for the last run, if that was on another one."""
        number = int(stream)
        if number == self._number:
            return
        api, check = self.device.api, self.device.check
        if not self._recorded:
            check(api.cuEventRecord(self._event.handle, self.last), "cuEventRecord")
        check(api.cuStreamWaitEvent(stream, self._event.handle, 0), "cuStreamWaitEvent")
        self.last, self._number, self._recorded = stream, number, False

    def leave(self) -> None:
        """Note the end of a run on a caller's stream, which need not live on."""
        if self.elsewhere:
            self.device.check(self.device.api.cuEventRecord(self._event.handle, self.last), "cuEventRecord")
            self._recorded = True

    def settle(self) -> None:
        """Wait for the last run."""
        if self.elsewhere and self._recorded:
            self.device.check(self.device.api.cuEventSynchronize(self._event.handle), "a run")
        else:
            self.device.synchronize(self.last)

    def close(self) -> None:
        """Give the event back."""
        self._event.close()


def stream_of(device: Device, stream: Any) -> Any:
    """The stream that a caller means, as the driver's handle: an address, or an object with `cuda_stream`, `ptr` or
    `__cuda_stream__`. InputError for anything else."""
    for name in ("cuda_stream", "ptr"):
        stream = getattr(stream, name, stream)
    told = getattr(stream, "__cuda_stream__", None)
    if told is not None:
        stream = (told() if callable(told) else told)[1]
    try:
        return device.api.CUstream(int(stream))
    except (TypeError, ValueError) as e:
        raise InputError(f"stream={stream!r:.60}", why="that is no CUDA stream", do="give its address") from e
