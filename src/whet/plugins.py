"""Operators of your own: a shape rule, a function on arrays, and, where it should be compiled, what it means in whet's
operators.

    @whet.plugin("com.example", "Snake", shape=whet.plugins.like_first, lower=snake)
    def run_snake(x, *, alpha=1.0):
        return x + np.sin(alpha * x) ** 2 / alpha

Packages contribute theirs by the entry point group `whet.plugins`: each entry names a module (or an object in one),
whose import registers them. A plan whose steps call a plugin's function records the package, and needs it where it is
loaded; one whose plugins are all compiled needs none.
"""

from __future__ import annotations

import base64
import importlib.metadata
import inspect
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from whet.errors import InputError, MissingPluginError, PlanFormatError, PluginError

if TYPE_CHECKING:
    from whet.frontends.call import Call, Operand
    from whet.ir.dtypes import DType
    from whet.ir.graph import Value
    from whet.ir.symbolic import Dim

    Result = tuple[DType, tuple[Dim | None, ...]]

Run = Callable[..., Any]
F = TypeVar("F", bound=Run)
GROUP = "whet.plugins"


@dataclass(frozen=True)
class Plugin:
    """A registered operator.

    run:   (arrays, in order, None for an absent one; attributes as keywords) -> array or a tuple of arrays.
    shape: (inputs as `ir.Value`s or None, attributes) -> (dtype, shape) of each result; a dimension that only the run
           can tell is None.
    lower: the frontend's `Call` -> value or values, made of whet's own operators (docs/internals.md).
    """

    domain: str
    name: str
    since: int
    run: Run
    shape: Callable[[Sequence[Value | None], Mapping[str, Any]], Sequence[Result]]
    lower: Callable[[Call], Operand | Sequence[Operand]] | None
    package: str
    version: str


_registered: dict[tuple[str, str], list[Plugin]] = {}
_broken: dict[str, str] = {}  # entry points whose import failed, and how
_loading: ContextVar[tuple[str, str] | None] = ContextVar("_loading", default=None)  # package, version
_lock = threading.RLock()
_discovered = False


def plugin(domain: str, name: str, *, shape: Callable[..., Any], since: int = 1,
           lower: Callable[..., Any] | None = None) -> Callable[[F], F]:
    """Register the decorated function as the operator `name` of `domain` from opset `since` on. See `Plugin`.

    InputError: a domain of ONNX's own, or another package's operator of the same name and version.
    """
    def register(run: F) -> F:
        if domain in ("", "ai.onnx", "ai.onnx.ml"):
            raise InputError(f"{name} cannot be registered for the domain {domain!r}", why="ONNX defines it",
                             do="use a domain of your own, as com.example")
        package, version = _loading.get() or (run.__module__.partition(".")[0], "")
        made = Plugin(domain, name, since, run, shape, lower, package, version)
        with _lock:
            others = _registered.setdefault((domain, name), [])
            same = next((p for p in others if p.since == since), None)
            if same is not None and same.package != package:
                raise InputError(f"{domain}.{name} (since {since}) is registered twice",
                                 why=f"by {same.package} and by {package}", do="uninstall one of them")
            others[:] = sorted([p for p in others if p is not same] + [made], key=lambda p: p.since)
        return run
    return register


def like_first(inputs: Sequence[Value | None], attributes: Mapping[str, Any]) -> list[Result]:
    """A shape rule: one result of the first input's type and shape."""
    x = inputs[0]
    if x is None:
        raise InputError("the first input is absent", do="give it")
    return [(x.dtype, x.shape)]


def find(domain: str, name: str, version: int = 1 << 30) -> Plugin | None:
    """The newest plugin for an operator of this opset version, None if there is none. PluginError if a package that
    may have it cannot be imported."""
    if domain in ("", "ai.onnx", "ai.onnx.ml"):
        return None
    found = _find(domain, name, version)
    if found is None:
        _discover()
        found = _find(domain, name, version)
    if found is None and _broken:
        package, why = next(iter(_broken.items()))
        raise PluginError(f"the plugins of {package} cannot be imported", where=f"{domain}.{name}", why=why,
                          do="mend or uninstall the package")
    return found


def _find(domain: str, name: str, version: int) -> Plugin | None:
    with _lock:
        fitting = [p for p in _registered.get((domain, name), ()) if p.since <= version]
    return fitting[-1] if fitting else None


def _discover() -> None:
    """Import what packages declare, once a process."""
    global _discovered
    with _lock:
        if _discovered:
            return
        _discovered = True
        for entry in importlib.metadata.entry_points(group=GROUP):
            dist = entry.dist
            name, version = (dist.name, dist.version) if dist is not None else (entry.module, "")
            token = _loading.set((name, version))
            try:
                entry.load()
            except Exception as e:  # whatever a package's import raises
                _broken[name] = f"{type(e).__name__}: {e}"
            finally:
                _loading.reset(token)


def results(p: Plugin, inputs: Sequence[Value | None], attributes: Mapping[str, Any]) -> list[Result]:
    """What its shape rule says. PluginError if that fails."""
    try:
        return [(t, tuple(s)) for t, s in p.shape(inputs, attributes)]
    except Exception as e:
        raise PluginError(f"the shape rule of {p.domain}.{p.name} failed", why=f"{type(e).__name__}: {e}",
                          do=f"check the node's operands, or report it to the authors of {p.package}") from e


def call(p: Plugin, operands: Sequence[Any], attributes: Mapping[str, Any], where: str = "") -> list[Any]:
    """Its function's results as a list. PluginError if it fails."""
    try:
        out = p.run(*operands, **attributes)
    except Exception as e:
        raise PluginError(f"{p.domain}.{p.name} failed", where=where, why=f"{type(e).__name__}: {e}",
                          do=f"check the inputs, or report it to the authors of {p.package}") from e
    return list(out) if isinstance(out, tuple) else [out]


# -- attributes, and what a plan stores ----------------------------------------------------------------


def to_payload(p: Plugin, attributes: Mapping[str, Any], present: Sequence[bool]) -> bytes:
    """The step of a plan that calls a plugin: JSON. `present` tells which inputs are there."""
    return json.dumps({"domain": p.domain, "name": p.name, "since": p.since, "package": p.package,
                       "version": p.version, "attributes": {k: _plain(v) for k, v in attributes.items()},
                       "present": list(present)}, sort_keys=True).encode()


def from_payload(payload: bytes, where: str) -> Callable[[Sequence[Any]], list[Any]]:
    """The function of such a step. PlanFormatError: a damaged payload; MissingPluginError: nobody here has it."""
    try:
        stored = json.loads(payload)
        domain, name, since = str(stored["domain"]), str(stored["name"]), int(stored["since"])
        package, version = str(stored["package"]), str(stored["version"])
        attributes = {str(k): _restored(v) for k, v in stored["attributes"].items()}
        present = [bool(b) for b in stored["present"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise PlanFormatError("a plugin's step of the plan is damaged", where=where, why=str(e)) from e
    p = find(domain, name, since)
    if p is None or p.since != since:
        raise MissingPluginError(
            f"the plugin {domain}.{name} (since {since}) is not here", where=where,
            why=f"the plan was built with it, from the package {package}{f' {version}' if version else ''}",
            do=f"pip install {package}{f'=={version}' if version else ''}" if version else
            f"import {package} before the plan is loaded")
    def run(operands: Sequence[Any]) -> list[Any]:
        left = iter(operands)
        return call(p, [next(left) if there else None for there in present], attributes, where)

    return run


def takes(p: Plugin, name: str) -> bool:
    """True if its function knows the attribute."""
    parameters = inspect.signature(p.run).parameters.values()
    return any(a.kind is a.VAR_KEYWORD or (a.name == name and a.kind in (a.KEYWORD_ONLY, a.POSITIONAL_OR_KEYWORD))
               for a in parameters)


def _plain(v: Any) -> Any:
    if isinstance(v, np.ndarray):
        return {"dtype": v.dtype.name, "shape": list(v.shape), "data": base64.b64encode(v.tobytes()).decode()}
    return v


def _restored(v: Any) -> Any:
    if isinstance(v, dict):
        return np.frombuffer(base64.b64decode(v["data"]), np.dtype(v["dtype"])).reshape(v["shape"])
    return v
