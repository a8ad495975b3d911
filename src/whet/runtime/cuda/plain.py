"""One run of a plan that is one segment over its own inputs and outputs, wherever these are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.runtime.cuda import hot
from whet.runtime.cuda.arrays import DeviceArray, OnDevice, borrow_device, on_device, same_shape
from whet.runtime.cuda.bound import Bound
from whet.runtime.cuda.driver import Device
from whet.runtime.cuda.staging import copy, transfer
from whet.runtime.cuda.states import DeviceStates
from whet.runtime.engine import no_overlap
from whet.runtime.feeds import Borrowed, borrow_output

if TYPE_CHECKING:
    from whet.runtime.cuda.context import CudaContext

Move = tuple[int, int, int]  # to, from, bytes


def run(context: CudaContext, which: int, env: dict[str, int], given: Sequence[Borrowed], out: Mapping[str, Any],
        device: bool, stream: Any) -> dict[str, Any]:
    """The outputs by name: those in `out` written there, others fresh, on the device where `device`. On the context's
    own stream, and where any of them is the host's, they are there when this returns."""
    d, loaded, states = context.device, context.engine._programs[which], context._states
    own = context.order.own(stream)
    b = context.fit(which, env)
    placed = context.slot.place(b)
    if context.hot is not None and context.hot[1].generation != placed.generation:
        context.hot = None  # its places have been given back
    context.slot.wait()
    home = list(placed.addresses)
    wanted = list(home)  # where the caller has them
    ups: list[Move] = []
    across: list[Move] = []  # on the GPU, before and after
    back: list[Move] = []
    spans = [(x.address, x.address + x.nbytes, t.name) for t, x in zip(b.inputs, given) if x.address]
    for t, x, view in zip(b.inputs, given, placed.inputs):
        if t.name in states.inputs:
            home[t.index] = wanted[t.index] = x.address
        elif isinstance(x, OnDevice):
            if t.index in b.partial:  # where it lies there is no room for the whole bucket
                across.append((home[t.index], x.address, t.nbytes))
                continue
            wanted[t.index] = x.address
        elif t.nbytes:
            copy(view, x.value)
            ups.append((home[t.index], view.ctypes.data, t.nbytes))
    if len(ups) == len(b.inputs) and placed.upload is not None:
        ups = [placed.upload]
    results: dict[str, Any] = {}
    downs: list[tuple[np.ndarray, np.ndarray, Move]] = []
    fetched: list[tuple[DeviceArray, Move]] = []
    for t, view in zip(b.outputs, placed.outputs):
        what = f"the output {t.name!r}"
        if t.name in states.outputs:
            assert isinstance(states, DeviceStates)
            home[t.index] = wanted[t.index] = states.place(loaded, t.name, t.shape, t.dtype)
        elif t.name in out and on_device(out[t.name]):
            place = borrow_device(out[t.name], t.dtype, d, int(stream), what)
            same_shape(place, t.shape, what)
            no_overlap(spans, place.address, t.nbytes, t.name)
            results[t.name] = out[t.name]
            if t.index in b.partial:
                back.append((place.address, home[t.index], t.nbytes))
            else:
                wanted[t.index] = place.address
        elif t.name in out:
            host = borrow_output(out[t.name], t.dtype, t.shape, what)
            no_overlap(spans, host.address, t.nbytes, t.name)
            results[t.name] = out[t.name]
            downs.append((host.value, view, (view.ctypes.data, home[t.index], t.nbytes)))
        elif device:
            results[t.name] = made = DeviceArray(d, t.shape, t.dtype, stream, context.streams.main if own else None)
            fetched.append((made, (made.address, home[t.index], t.nbytes)))
        else:
            results[t.name] = fresh = np.empty(t.shape, t.dtype)
            downs.append((fresh, view, (view.ctypes.data, home[t.index], t.nbytes)))
    for move in ups:
        transfer(d, move, True, stream)
    for move in across:
        on_gpu(d, move, stream)
    context.go(b.bound, home, wanted, stream)
    for move in (*back, *(m for _, m in fetched)):
        on_gpu(d, move, stream)
    if len(downs) == len(b.outputs) and placed.download is not None:
        transfer(d, placed.download, False, stream)
    else:
        for _, _, move in downs:
            if move[2]:
                transfer(d, move, False, stream)
    if own or downs:
        d.synchronize(stream)
    else:
        context.slot.used(stream, bool(ups))
        for a, _ in fetched:
            a.follow(stream)
    context.order.leave()
    for y, view, _ in downs:
        copy(y, view)
    if states.inputs:
        states.keep(loaded, results, env)
    elif home == wanted and context.can_replay(b.bound, placed):
        hot.keep(context, b, placed)
    return {t.name: results[t.name] for t in b.outputs if t.name in results}


def through(context: CudaContext, b: Bound, home: Sequence[int], wanted: Sequence[int], stream: Any) -> None:
    """Run in the places at `home`, on copies of the tensors at `wanted`."""
    n = len(b.inputs)
    moves = [(t.index, h, w, t.nbytes) for t, h, w in zip((*b.inputs, *b.outputs), home, wanted) if h != w]
    for index, h, w, size in moves:
        if index < n:
            on_gpu(context.device, (h, w, size), stream)
    context.go(b, home, home, stream)
    for index, h, w, size in moves:
        if index >= n:
            on_gpu(context.device, (w, h, size), stream)


def on_gpu(device: Device, move: Move, stream: Any) -> None:
    """Start a copy from the device's memory to the device's memory."""
    if move[2]:
        device.check(device.api.cuMemcpyDtoDAsync(*move, stream), "copying on the GPU")
