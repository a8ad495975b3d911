"""Imports point one way, as docs/internals.md says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "whet"

# The part -> the parts of whet that it may import (itself and `errors` always).
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "abi": set(),
    "abi_cuda": set(),
    "abi_cublaslt": {"abi_cuda"},
    "abi_cudnn": set(),
    "reference": set(),
    "plugins": set(),
    "data_file": set(),
    "ir": {"reference", "plugins"},
    "frontends": {"ir", "reference", "plugins"},
    "passes": {"ir"},
    "targets": {"ir", "abi", "abi_cuda", "abi_cublaslt", "abi_cudnn"},
    "lowering": {"ir", "targets", "plan", "plugins"},
    "plan": {"abi", "abi_cuda"},
    "runtime": {"plan", "abi", "abi_cuda", "abi_cublaslt", "abi_cudnn", "reference", "plugins", "ir"},
    "measure": {"runtime", "plan"},
    "tuning": {"targets", "ir", "measure", "plan", "runtime", "lowering"},
    "precision": {"ir", "passes", "plan", "runtime", "measure"},
    "command": set(),
    "builder": {"frontends", "ir", "passes", "targets", "lowering", "tuning", "plan"},
    "quantizing": {"builder", "ir", "measure", "plan", "precision", "runtime"},
    "pipeline": {"builder", "command", "quantizing", "runtime", "frontends", "ir", "passes", "precision", "targets",
                 "lowering", "tuning", "plan"},
    "exporting": {"builder", "frontends", "ir", "precision", "quantizing", "targets", "tuning"},
    "loading": {"pipeline", "plan", "runtime", "targets", "lowering", "tuning", "ir"},
    "report": {"measure"},
    "store": {"measure"},
    "config": {"command", "data_file", "measure"},
    "doc": {"command", "config", "data_file", "measure", "plan", "report"},
    "lock": {"measure"},
    "demo": set(),
    "tools": {"pipeline", "frontends", "ir", "passes", "targets", "lowering", "plan", "runtime", "plugins"},
    "compare": {"pipeline", "frontends", "quantizing", "runtime", "measure", "plan", "targets", "precision", "tuning"},
    "decide": {"measure", "data_file"},
    "board": {"store", "decide", "report", "measure", "data_file"},
}
# Whoever may import everything: the command line, and the package itself (which only hands names on, lazily).
FREE = {"cli", "__init__"}


def part(path: Path) -> str:
    """`ir/graph.py` -> `ir`; `errors.py` -> `errors`."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def whet_imports(source: str, package: str) -> set[str]:
    """The parts of whet that a module imports, wherever in it, except for types alone."""
    tree = ast.parse(source)
    typing_only = {id(n) for block in ast.walk(tree) if isinstance(block, ast.If)
                   and ast.unparse(block.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
                   for child in block.body for n in ast.walk(child)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*base, node.module] if node.module else base)
            else:
                module = node.module or ""
            names = [f"{module}.{a.name}" for a in node.names] if module == "whet" else [module]
        found |= {n.split(".")[1] for n in names if n.startswith("whet.")}
    return found


MODULES = sorted(p for p in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    owner = part(path)
    package = ".".join(["whet", *path.relative_to(ROOT).parts[:-1]])
    imported = whet_imports(path.read_text("utf-8"), package) - {owner, "errors", "__version__"}
    assert "cli" not in imported or owner in FREE
    if owner in FREE:
        return
    assert owner in ARROWS, f"give {owner} its arrows here and in docs/internals.md"
    assert imported <= ARROWS[owner], f"{owner} must not import {sorted(imported - ARROWS[owner])}"


def test_the_arrows_have_no_cycle() -> None:
    left = {k: set(v) for k, v in ARROWS.items()}
    while left:
        free = [k for k, v in left.items() if not v & set(left)]
        assert free, f"a cycle among {sorted(left)}"
        for k in free:
            del left[k]


def test_a_relative_and_a_lazy_import_are_seen() -> None:
    source = "from ..ir import graph\ndef f():\n    import whet.plan.reader\n    from whet import passes\n"
    assert whet_imports(source, "whet.runtime") == {"ir", "plan", "passes"}
