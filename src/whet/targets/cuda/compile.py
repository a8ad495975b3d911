"""From a kernel's recipe to the object in the plan, by Triton; and to a function that NumPy runs."""

from __future__ import annotations

import dataclasses
import importlib
import linecache
from typing import Any

import msgspec

from whet import abi_cuda
from whet.errors import MissingExtraError
from whet.targets.base import Implementation, Kernel
from whet.targets.cuda.kernel import Recipe, kernel_of

# The kinds of code besides Triton's, and the module whose `to_object(code, number)` makes their objects.
_LIBRARIES = {"cublaslt": "whet.targets.cuda.cublaslt", "cudnn": "whet.targets.cuda.cudnn"}
_ORDER = "tl.extra.cuda.gdc_wait()", "tl.extra.cuda.gdc_launch_dependents()"


class _Kind(msgspec.Struct):
    type: str


def recipe_of(code: str) -> Recipe:
    """A Triton kernel's recipe from its code."""
    return msgspec.json.decode(code, type=Recipe)


def early(made: Implementation) -> Implementation:
    """The same with kernels that begin while the one before them ends (programmatic dependent launch), on sm_90 and up.

    Each then waits (`griddepcontrol.wait`) before anything else but the prefetch of constants, until the grid before it
    is complete and what it wrote can be seen, and lets the next one begin. Only launch latency and the start of
    programs overlap: so the order is the stream's own. By induction, when a kernel passes its wait, all before it are
    complete: the last of them waited too before it did anything. That holds for what is read after it was written, and
    for what is written after others read it. A library's kernel neither waits nor is launched early (its launch has not
    the attribute): it begins when the one before it is complete, and the one behind it, where it does not let it begin
    early, waits for its end. The next one begins when every program of this one has, so programs that wait for each
    other find their places taken by none.
    """
    def kernel(k: Kernel) -> Kernel:
        if msgspec.json.decode(k.code, type=_Kind).type in _LIBRARIES:
            return k
        r = recipe_of(k.code)
        return kernel_of(msgspec.structs.replace(r, options={**r.options, "launch_pdl": True}))

    return dataclasses.replace(made, steps=tuple(dataclasses.replace(s, kernel=kernel(s.kernel)) for s in made.steps))


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


def _waiting(r: Recipe) -> Recipe:
    """The kernel with its wait: in place of the line `#: wait`, else at the top. What stands behind `#: ` in other
    lines is for such kernels alone (prefetches before the wait). Interpreted kernels have nothing of this: they run one
    after the other."""
    lines = r.text.splitlines()
    if any(line.strip() == "#: wait" for line in lines):
        lines = [t for line in lines for t in _uncommented(line)]
    else:
        head = max(i for i, line in enumerate(lines) if line.startswith(f"def {r.name}("))
        lines[head + 1:head + 1] = [f"    {line}" for line in _ORDER]
    return msgspec.structs.replace(r, text="\n".join([*lines, ""]))


def _uncommented(line: str) -> list[str]:
    indent, mark, rest = line.partition("#: ")
    if not mark or indent.strip():
        return [line]
    return [f"{indent}{o}" for o in _ORDER] if rest == "wait" else [f"{indent}{rest}"]


def _compiled(r: Recipe, number: int) -> bytes:
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ImportError as e:
        raise MissingExtraError("kernels for GPUs are compiled by Triton, which is not installed", why=str(e),
                                do='pip install "whet[cuda]"') from e
    dependent = bool(r.options.get("launch_pdl", False)) and number >= 90
    fn = function(_waiting(r) if dependent else r)
    source = ASTSource(fn=fn, signature=dict(zip(fn.arg_names, r.types, strict=True)),
                       attrs={(i,): [["tt.divisibility", 16]] for i in r.aligned})
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True  # two thirds of a cubin's bytes
        made = triton.compile(source, target=GPUTarget("cuda", number, 32),
                              options={"num_warps": r.warps, "num_stages": r.stages, **r.options,
                                       "launch_pdl": dependent})
    m = made.metadata
    letters = "".join("p" if t.startswith("*") else "l" if t == "i64" else "i" for t in r.types)
    unit = abi_cuda.Cubin(m.name, letters, m.num_warps, m.shared, [m.global_scratch_size, m.profile_scratch_size],
                          m.num_ctas, dependent)
    return abi_cuda.pack(unit, made.asm["cubin"])
