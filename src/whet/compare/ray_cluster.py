"""A Ray cluster as a place to measure: which nodes there are, and tasks on them that do not disturb each other.

A node is given tasks by this module, not by Ray's scheduler: a task that times things has its whole machine, and which
machine a node is on Ray does not know (containers of one host have addresses of their own).
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet import __version__
from whet.errors import InputError, InternalError, MissingExtraError, ServerError
from whet.measure.record import Device

TRIES = 3  # of a task whose worker is lost
PROBE_SECONDS, LATER_SECONDS = 120.0, 10.0  # that nodes have to say what they are
LOOK = 10.0  # seconds from one look at which nodes there are to the next
Progress = Callable[[str, int, int], None]
_ADDRESS = re.compile(r"auto|local|(ray://)?(\[[0-9a-fA-F:]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})/?")


@dataclass
class Node:
    """`host` is the machine, which several nodes may share; `device` what it measures on."""

    id: str
    host: str
    cpus: int
    device: Device
    installed: tuple[str, ...]
    used: int = 0


@dataclass(eq=False)
class Task:
    """`call` makes what the task is: a function and its arguments, when its turn comes; `done` takes what it gives.

    hardware: the fingerprint of the nodes that it may run on.
    cpus:     that it has; `alone`: all of its node, and nothing else on that machine.
    after:    keys of tasks that come before.
    """

    key: str
    label: str
    hardware: str
    cpus: int
    call: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]
    done: Callable[[Any], None]
    lost: Callable[[], None] = lambda: None
    alone: bool = False
    after: frozenset[str] = frozenset()
    tries: int = 0
    node: Node | None = None  # that it runs on, and how many of its CPUs it has
    taken: int = 0


@dataclass
class Cluster:
    """The nodes that can measure. `gpu`: each task has one."""

    gpu: bool
    nodes: list[Node] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    def hardware(self) -> dict[str, Device]:
        """By fingerprint, in the order of the nodes."""
        return {n.device.fingerprint: n.device for n in self.nodes}

    def cpus(self) -> int:
        """Of the smallest node."""
        return min(n.cpus for n in self.nodes)

    def installed(self) -> list[str]:
        """The backends that all nodes have."""
        return [b for b in self.nodes[0].installed if all(b in n.installed for n in self.nodes)]

    def look(self, progress: Progress = lambda what, done, total: None, *, later: bool = False) -> None:
        """See which nodes there are now. InputError for one with another whet, or none; `later`, in the middle of a
        sweep, it is left alone instead."""
        import ray

        alive = {n["NodeID"]: n for n in ray.nodes() if n["Alive"]}
        self.nodes = [n for n in self.nodes if n.id in alive]
        new = {i: n for i, n in sorted(alive.items()) if i not in self.known and n["Resources"].get("CPU", 0) >= 1
               and (not self.gpu or n["Resources"].get("GPU", 0) >= 1)}
        asked = {i: self._ask(i) for i in new}
        if asked:
            progress(f"asking {len(asked)} nodes what they are", 0, 0)
        until = time.monotonic() + (LATER_SECONDS if later else PROBE_SECONDS)
        for i, ref in asked.items():
            where = f"{new[i]['NodeManagerHostname']} ({new[i]['NodeManagerAddress']})"
            try:
                found = ray.get(ref, timeout=max(0.1, until - time.monotonic()))
            except ray.exceptions.GetTimeoutError:
                ray.cancel(ref, force=True)  # busy with others' work: asked again at the next look
                continue
            except ray.exceptions.RayError as e:
                if later or _is_lost(e):
                    continue
                raise ServerError("a node of the cluster does not work", where=where, why=_short(e)) from e
            self.known.add(i)
            if found.get("error") or found.get("version") != __version__:
                if later:
                    continue
                raise InputError("a node of the cluster has no whet, or another version", where=where, do="install the "
                                 f"same there: pip install 'whet[ray]=={__version__}'",
                                 why=found.get("error") or f"it has {found['version']}, this is {__version__}")
            self.nodes.append(Node(i, found["host"], int(new[i]["Resources"]["CPU"]), found["device"],
                                   tuple(found["installed"])))

    def _ask(self, node: str) -> Any:
        import ray

        def probe(gpu: bool) -> dict[str, Any]:  # travels by value: it has to say so where whet is missing
            try:
                import whet
                from whet.compare.ray_cluster import this_node

                return {"version": whet.__version__, **this_node(gpu)}
            except Exception as e:  # of whatever is there
                return {"error": f"{type(e).__name__}: {e}"}

        return ray.remote(probe).options(num_cpus=0, num_gpus=int(self.gpu), max_retries=1,
                                         scheduling_strategy=_on(node)).remote(self.gpu)

    def run(self, tasks: Sequence[Task], progress: Progress = lambda what, done, total: None) -> None:
        """All of them, as their turns come. What a task gives is taken at once. A task whose worker or node is lost
        runs again from its beginning, somewhere else if need be; one that is lost TRIES times counts as done for those
        after it, and the others go on.

        ServerError, when all else is done, if one that has its machine alone was lost so; or where no node is left.
        Whatever ends this (Ctrl-C too) cancels what runs.
        """
        import ray

        waiting, finished = list(tasks), set[str]()
        flying: dict[Any, Task] = {}
        failed: list[Task] = []
        looked = time.monotonic()
        try:
            while waiting or flying:
                for t in list(waiting):
                    if t.after <= finished and (node := self._place(t, flying.values())) is not None:
                        waiting.remove(t)
                        flying[self._start(t, node)] = t
                names = ", ".join(sorted({t.label for t in flying.values()}))
                progress(names or "waiting for a node", len(finished), len(tasks))
                if not flying or time.monotonic() - looked > LOOK:
                    self.look(later=True)
                    looked = time.monotonic()
                    self._check(waiting)
                if not flying:
                    time.sleep(0.2)
                    continue
                ready, _ = ray.wait(list(flying), num_returns=1, timeout=LOOK)
                for ref in ready:
                    t = flying.pop(ref)
                    assert t.node is not None
                    t.node.used -= t.taken
                    try:
                        value = ray.get(ref)
                    except ray.exceptions.RayError as e:
                        if not _is_lost(e):
                            raise InternalError("a task of the sweep failed", where=t.label, why=_short(e)) from e
                        t.lost()
                        self.look(later=True)
                        t.tries += 1
                        if t.tries < TRIES:
                            waiting.insert(0, t)
                            continue
                        failed += [t] if t.alone else []
                    else:
                        t.done(value)
                    finished.add(t.key)
        except BaseException:
            for ref in flying:
                with contextlib.suppress(Exception):
                    ray.cancel(ref, force=True)
            raise
        if failed:
            raise ServerError(f"{failed[0].label} lost its worker {TRIES} times", why="it crashed, was ended from "
                              "outside, or its node went away or ran out of memory",
                              do="what else was asked for is kept: run the command again, or leave this out")

    def _place(self, t: Task, flying: Any) -> Node | None:
        alone = {f.node.host for f in flying if f.alone}
        busy = {f.node.host for f in flying}
        fit = [n for n in self.nodes if n.device.fingerprint == t.hardware and n.cpus >= t.cpus
               and n.host not in (busy if t.alone else alone) and (t.alone or n.cpus - n.used >= t.cpus)]
        return min(fit, key=lambda n: n.used, default=None)

    def _start(self, t: Task, node: Node) -> Any:
        import ray

        t.node, t.taken = node, node.cpus if t.alone else t.cpus
        node.used += t.taken
        function, arguments = t.call()
        # Ray's own retries serve what crashes; a lost node's tasks come back to `run`. One that times is never
        # repeated behind our back.
        return ray.remote(function).options(
            num_cpus=t.taken, num_gpus=int(self.gpu), max_retries=0 if t.alone else TRIES - 1, name=f"whet: {t.label}",
            scheduling_strategy=_on(node.id)).remote(*arguments)

    def _check(self, waiting: Sequence[Task]) -> None:
        for t in waiting:
            if not any(n.device.fingerprint == t.hardware for n in self.nodes):
                raise ServerError("the cluster has no node left that can go on", where=t.label,
                                  why="nodes of the hardware that the sweep began on went away",
                                  do="start such a node, and run the command again: what is finished is kept")


def this_node(gpu: bool) -> dict[str, Any]:
    """What a node says of itself, called there. Errors as of `measure.device.gpus`."""
    from whet.compare.backends import installed
    from whet.measure.device import gpus, this_device, with_gpus

    try:  # the same in all containers of a machine, and no other's
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
            host = f.read().strip()
    except OSError:
        host = socket.gethostname()
    return {"host": host, "device": with_gpus(gpus((0,))) if gpu else this_device(), "installed": installed()}


@contextlib.contextmanager
def joined(address: str, *, gpu: bool = False, progress: Progress = lambda what, done, total: None
           ) -> Iterator[Cluster]:
    """The cluster at `auto` (the one that this machine is part of), `HOST:PORT`, `ray://HOST:PORT`, or `local`: one
    that is started here, of this machine alone, and ended afterwards. A connection that the process has already is
    used instead.

    MissingExtraError without Ray; InputError for an address that is none; ServerError where no cluster answers, or one
    without nodes that can measure.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or (found[3] and not 0 < int(found[3]) < 65536):
        raise InputError(f"--ray {address}", why="an address is auto, local, HOST:PORT or ray://HOST:PORT",
                         do="give one of these")
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError.for_package("ray", "ray", "a sweep on a cluster")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere that nobody asked for
    if address != "local" and "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"  # `ray start` does so by itself, `ray.init` does not
    import ray

    ours = not ray.is_initialized()
    if ours:
        progress("joining the cluster", 0, 0)
        _connect(address, found)
    try:
        cluster = Cluster(gpu)
        cluster.look(progress)
        if not cluster.nodes:
            raise ServerError("the cluster has no node that can measure", where=address, why="each needs a CPU" + (
                " and a GPU that others leave free" if gpu else ""), do="start one: ray start --address=...")
        yield cluster
    finally:
        if ours:
            ray.shutdown()


def _has_token() -> bool:
    """Whether there is a token to show to clusters that ask for one. Ray reads RAY_AUTH_MODE as it is imported; a
    cluster without tokens takes no notice. https://docs.ray.io/en/latest/ray-security/token-auth.html"""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(named or Path.home() / ".ray" / "auth_token").is_file()


def _connect(address: str, found: re.Match[str]) -> None:
    import ray

    try:
        if found[3]:  # Ray itself waits for minutes, or ends the process
            socket.create_connection((found[2].strip("[]"), int(found[3])), timeout=10).close()
        more: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **more)
    except Exception as e:  # Ray raises many kinds
        raise ServerError("no Ray cluster answers", where=address, why=_short(e),
                          do="start one (ray start --head), check the address, or give --ray local; a cluster that "
                          "asks for a token wants the head's, in ~/.ray/auth_token or RAY_AUTH_TOKEN") from e


def _on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _is_lost(e: Exception) -> bool:
    """True if the task did not fail, but what it ran on."""
    from ray import exceptions as r

    return isinstance(e, (r.WorkerCrashedError, r.NodeDiedError, r.OutOfMemoryError, r.LocalRayletDiedError,
                          r.TaskUnschedulableError, r.ObjectLostError, r.RaySystemError))


def _short(e: Exception) -> str:
    return f"{type(e).__name__}: {e}".strip().splitlines()[0][:500]
