"""Runs in the background: copies of one run overlap with what others compute."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from whet.errors import InputError, LostDeviceError
from whet.runtime.cuda.arrays import OnDevice, on_device
from whet.runtime.cuda.driver import Device, DeviceMemory, Owned
from whet.runtime.cuda.staging import Placed, Slot, copied, copy, transfer
from whet.runtime.engine import no_overlap
from whet.runtime.feeds import borrow_output

if TYPE_CHECKING:
    from whet.runtime.cuda.context import CudaContext

SLOTS = 3  # one run's inputs go up while another computes and a third one's outputs come down


class Pipeline:
    """The streams, slots and finishing thread of a context's submitted runs."""

    def __init__(self, device: Device, allocate: Callable[[int, str], DeviceMemory], least: int = 0) -> None:
        """`least`: bytes that each slot has from the beginning."""
        self.device = device
        self._up, self._down = Owned(device, device.stream()), Owned(device, device.stream())
        self._slots = [_Stage(device, allocate) for _ in range(SLOTS)]
        self._free: queue.SimpleQueue[_Stage] = queue.SimpleQueue()
        for s in self._slots:
            s.slot.least = least
            self._free.put(s)
        self._finisher = ThreadPoolExecutor(1, "whet-finish")

    def feed(self, context: CudaContext, feeds: Any, out: Any, future: Future[dict[str, Any]]) -> None:
        """Start one run; the future is resolved by the finishing thread. Runs are fed by one thread, in their order."""
        if not future.set_running_or_notify_cancel():
            return
        try:
            if any(map(on_device, feeds.values())) or any(map(on_device, (out or {}).values())):
                future.set_result(context.run(feeds, out))
                return
            with context._lock:
                context.check_open()
                with self.device.current():
                    self._start(context, feeds, out or {}, future)
        except BaseException as e:
            if isinstance(e, LostDeviceError):
                context.lose()
            future.set_exception(e)

    def close(self) -> None:
        """After the runs in progress, give everything back."""
        self._finisher.shutdown(wait=True)
        for s in self._slots:
            s.slot.close()
        self._up.close()
        self._down.close()

    def _start(self, context: CudaContext, feeds: Any, out: Any, future: Future[dict[str, Any]]) -> None:
        d, api, stream = self.device, self.device.api, context.streams.first
        borrowed = context._borrow_all(feeds, stream)
        which, env = context._environment(borrowed)
        b = context.fit(which, env)
        if not out.keys() <= context.engine.outputs.keys():
            raise InputError(f"out has {sorted(out.keys() - context.engine.outputs.keys())}",
                             why=f"the plan's outputs are {list(context.engine.outputs)}", do="leave the others out")
        spans, places = [], []
        for t, x in zip(b.inputs, borrowed):
            assert x is not None
            assert not isinstance(x, OnDevice)
            spans.append((x.address, x.address + x.nbytes, t.name))
        for t in b.outputs:
            if t.name in out:
                place = borrow_output(out[t.name], t.dtype, t.shape, f"the output {t.name!r}")
                no_overlap(spans, place.address, t.nbytes, t.name)
                places.append((t.name, out[t.name], place.value))
            else:
                places.append((t.name, None, None))
        stage = self._free.get()
        try:
            placed = stage.slot.place(b)
            for x, view in zip(borrowed, placed.inputs):
                copy(view, x.value)  # type: ignore[union-attr]
            context.order.switch(stream)
            transfer(d, placed.upload, True, self._up.handle)
            _follow(d, stage.event, self._up.handle, stream)
            home = list(placed.addresses)
            context.go(b.bound, home, home, stream)
            _follow(d, stage.event, stream, self._down.handle)
            transfer(d, placed.download, False, self._down.handle)
            d.check(api.cuEventRecord(stage.done.handle, self._down.handle), "cuEventRecord")
        except BaseException:
            self._free.put(stage)
            raise
        self._finisher.submit(self._finish, context, stage, placed, places, future)

    def _finish(self, context: CudaContext, stage: _Stage, placed: Placed, places: list[tuple[str, Any, Any]],
                future: Future[dict[str, Any]]) -> None:
        try:
            with self.device.current():
                self.device.check(self.device.api.cuEventSynchronize(stage.done.handle), "a run")
            results: dict[str, Any] = {}
            for (name, given, into), view in zip(places, placed.outputs):
                if into is not None:
                    copy(into, view)
                    results[name] = given
                else:
                    results[name] = copied(view)
            future.set_result(results)
        except BaseException as e:
            if isinstance(e, LostDeviceError):
                context.lose()
            future.set_exception(e)
        finally:
            self._free.put(stage)


class _Stage:
    """A slot with the events of the run that uses it."""

    def __init__(self, device: Device, allocate: Callable[[int, str], DeviceMemory]) -> None:
        self.slot = Slot(device, allocate)
        self.event = Owned(device, device.event())
        self.done = Owned(device, device.event(blocking=True))


def _follow(device: Device, event: Owned, before: Any, after: Any) -> None:
    """What comes next on stream `after` waits for what stream `before` has got."""
    device.check(device.api.cuEventRecord(event.handle, before), "cuEventRecord")
    device.check(device.api.cuStreamWaitEvent(after, event.handle, 0), "cuStreamWaitEvent")
