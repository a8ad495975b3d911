"""The shortest way in: a graph on the caller's own tensors, launched again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whet.errors import InputError, LostDeviceError
from whet.runtime.cuda.arrays import OnDevice, borrow_device, on_device, same_shape
from whet.runtime.cuda.bound import POINTER_ALIGN, Bound
from whet.runtime.cuda.staging import Slot, copy, transfer
from whet.runtime.feeds import Borrowed, borrow_output

if TYPE_CHECKING:
    from whet.runtime.cuda.context import CudaContext


def make(context: CudaContext, b: Bound, given: Sequence[Borrowed], out: Mapping[str, Any], stream: Any
         ) -> Callable[[], None]:
    """A function that runs on these inputs and outputs; on the context's own stream it waits for the end.

    InputError: tensors of the host on a caller's stream, outputs that cannot be written to.
    """
    slot = Slot(context.device, context.engine.allocate)
    placed = slot.place(b)
    own = context.order.own(stream)
    addresses, reads, writes = list(placed.addresses), [], []
    keep: list[Borrowed] = []
    for t, x, view in zip(b.inputs, given, placed.inputs):
        if isinstance(x, OnDevice) and x.address % POINTER_ALIGN == 0:
            addresses[t.index] = x.address
            keep.append(x)
        else:
            reads.append((view, x.value, (placed.addresses[t.index], view.ctypes.data, t.nbytes)))
    for t, view in zip(b.outputs, placed.outputs):
        what = f"the output {t.name!r}"
        if on_device(out[t.name]):
            place: Borrowed = borrow_device(out[t.name], t.dtype, context.device, int(stream), what)
            same_shape(place, t.shape, what)
            if place.address % POINTER_ALIGN:
                raise InputError(f"{what} begins at {place.address:#x}", why="it must be a multiple of 16",
                                 do="give a fresh tensor")
            addresses[t.index] = place.address
            keep.append(place)
        else:
            place = borrow_output(out[t.name], t.dtype, t.shape, what)
            writes.append((place.value, view, (view.ctypes.data, placed.addresses[t.index], t.nbytes)))
    if (reads or writes) and not own:
        raise InputError("arrays of the host cannot be used in the order of a stream", do="leave stream out")
    graph = b.capture(context.streams, addresses)
    kept: Any = (keep, graph, slot, b, context)
    return _simple(context, graph.handle, stream, own, kept) if not (reads or writes) else _staged(
        context, graph.handle, reads, writes, kept)


def _simple(context: CudaContext, graph: Any, stream: Any, own: bool, kept: Any) -> Callable[[], None]:
    d, order, lock = context.device, context.order, context._lock
    launch, push, pop, wait = (d.api.cuGraphLaunch, d.api.cuCtxPushCurrent, d.api.cuCtxPopCurrent,
                               d.api.cuStreamSynchronize)
    handle, number = d.context, int(stream)

    def go(keep: object = kept) -> None:
        with lock:
            if context._closed or d.lost is not None:
                context.check_open()
            push(handle)
            try:
                if order._number != number:
                    order.switch(stream)
                if context.states_gone:
                    context.lend_states(stream)
                code = launch(graph, stream)[0]
                order._recorded = False
                if own and not code:
                    code = wait(stream)[0]
                if code:
                    d.fail(code, "a run")
            except LostDeviceError:
                context.lose()
                raise
            finally:
                pop()

    return go


def _staged(context: CudaContext, graph: Any, reads: Sequence[Any], writes: Sequence[Any], kept: Any
            ) -> Callable[[], None]:
    d, order, stream = context.device, context.order, context.order.first

    def go(keep: object = kept) -> None:
        with context._lock, d.current():
            context.check_open()
            try:
                order.switch(stream)
                if context.states_gone:
                    context.lend_states(stream)
                for view, x, move in reads:
                    copy(view, x)
                    transfer(d, move, True, stream)
                d.check(d.api.cuGraphLaunch(graph, stream), "a run")
                for _, _, move in writes:
                    transfer(d, move, False, stream)
                d.synchronize(stream)
            except LostDeviceError:
                context.lose()
                raise
            for y, view, _ in writes:
                copy(y, view)

    return go
