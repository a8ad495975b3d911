"""From a kernel's recipe to the object in the plan, by Triton; and to a function that NumPy runs."""

from __future__ import annotations

import importlib
import linecache
from typing import Any

import msgspec

from whet import abi_cuda
from whet.errors import MissingExtraError
from whet.targets.cuda.kernel import Recipe

# The kinds of code besides Triton's, and the module whose `to_object(code, number)` makes their objects.
_LIBRARIES = {"cublaslt": "whet.targets.cuda.cublaslt", "cudnn": "whet.targets.cuda.cudnn"}


class _Kind(msgspec.Struct):
    type: str


def recipe_of(code: str) -> Recipe:
    """A Triton kernel's recipe from its code."""
    return msgspec.json.decode(code, type=Recipe)


def function(recipe: Recipe) -> Any:
    """The kernel as Triton's `jit` makes it from the text."""
    file = f"<whet {recipe.name} {hash(recipe.text) & 0xFFFFFFFFFFFF:x}>"
    linecache.cache[file] = (len(recipe.text), None, recipe.text.splitlines(keepends=True), file)
    module: dict[str, Any] = {"__name__": file}
    exec(compile(recipe.text, file, "exec"), module)
    return module[recipe.name]


def to_object(code: str, number: int) -> bytes:
    """The object of a kernel or library call for sm_`number`. MissingExtraError without Triton (or the library);
    Triton's own errors for wrong text."""
    kind = msgspec.json.decode(code, type=_Kind).type
    if kind in _LIBRARIES:
        made: bytes = importlib.import_module(_LIBRARIES[kind]).to_object(code, number)
        return made
    return _compiled(recipe_of(code), number)


def _compiled(r: Recipe, number: int) -> bytes:
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ImportError as e:
        raise MissingExtraError("kernels for GPUs are compiled by Triton, which is not installed", why=str(e),
                                do='pip install "whet[cuda]"') from e
    fn = function(r)
    source = ASTSource(fn=fn, signature=dict(zip(fn.arg_names, r.types, strict=True)),
                       attrs={(i,): [["tt.divisibility", 16]] for i in r.aligned})
    made = triton.compile(source, target=GPUTarget("cuda", number, 32),
                          options={"num_warps": r.warps, "num_stages": r.stages, **r.options})
    m = made.metadata
    letters = "".join("p" if t.startswith("*") else "l" if t == "i64" else "i" for t in r.types)
    unit = abi_cuda.Cubin(m.name, letters, m.num_warps, m.shared, [m.global_scratch_size, m.profile_scratch_size],
                          m.num_ctas, bool(m.launch_pdl))
    return abi_cuda.pack(unit, made.asm["cubin"])
