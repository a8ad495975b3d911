"""What a plan does for one optimization profile: native segments, host steps and control flow over registers.

A *register* holds one value while a block runs: an array, a list of arrays (a sequence), None (an optional without
value), or an array of strings. A *segment* is a stretch of native steps that is run by one native call; its inputs
and outputs are arrays. A *block* is a list of steps with registers of its own: the main one, and one for every body
of control flow. An ordinary plan is one block with one segment.

Integers that depend on shapes are dims (`plan.dims`). Their names are learnt from the shapes of a block's inputs, and
where they depend on data from the values that steps give (`Learn`). Bodies know the names of the blocks around them.
"""

from __future__ import annotations

from typing import Any

import msgspec

REFERENCE = ("onnx", "region")  # kinds of host steps that NumPy computes because there is no kernel


class Tensor(msgspec.Struct, frozen=True):
    """A value's name, element type (`float32`..., `bfloat16`, `string`; `object` for what is no tensor of a known
    rank) and shape (dims)."""

    name: str
    dtype: str
    shape: list[Any]


class Learn(msgspec.Struct, frozen=True):
    """`name` is element `at` of the integers in `register`, or where `axis` its dimension `at`."""

    name: str
    register: int
    at: int
    axis: bool = False


class Check(msgspec.Struct, frozen=True):
    """What must hold as soon as all names in it are known: a == b, or where `most`, a <= b (dims). `what` tells people
    whose need it is."""

    a: Any
    b: Any
    what: str
    most: bool = False


class Segment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Native steps [first, first + count) of the plan's table. `arena` (a dim) is the bytes of activations that they
    need; `dims` are the names that their expressions use; `labels` has one of each step. `after`: for each step the
    earlier ones (counted from `first`) that it has to wait for, so that others may run beside it; None: they run one
    after the other."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    dims: list[str]
    arena: Any
    labels: list[str]
    first: int = 0
    count: int = 0
    after: list[list[int]] | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="do"):
    """What every step has: the registers that it writes, what is learnt from them, and those not needed after it."""

    outputs: list[int]
    learn: list[Learn] = []
    free: list[int] = []


class Native(Step, frozen=True, kw_only=True, tag="native"):
    """Run a segment of the program."""

    segment: int
    inputs: list[int]


class Host(Step, frozen=True, kw_only=True, tag="host"):
    """Run a host function: `kind` `onnx` is blob `payload`, a serialized `onnx.ModelProto` of one node, run by whet's
    reference kernels (`whet.reference`); `region` is a region (JSON in the blob) that the target has no kernel for,
    evaluated with NumPy; `strings` gives a constant, JSON in the blob; `plugin` calls a plugin, named
    by JSON in the blob. `results` say what types and shapes must come out."""

    kind: str
    payload: str
    label: str
    inputs: list[int]
    results: list[Tensor]


class If(Step, frozen=True, kw_only=True, tag="if"):
    """Run block `then` or `other` on the captures."""

    label: str
    condition: int
    captures: list[int]
    then: int
    other: int


class Loop(Step, frozen=True, kw_only=True, tag="loop"):
    """Run block `body` while the count is not reached and the condition holds.

    The body takes iteration, condition, states, slices, captures, and gives condition, states, slices. `scans` are
    (axis, reverse) of the sliced registers, `stacks` of the slices that are stacked; `results` as in `Host`.
    """

    label: str
    count: int | None
    condition: int | None
    states: list[int]
    sliced: list[int]
    captures: list[int]
    scans: list[tuple[int, bool]]
    stacks: list[tuple[int, bool]]
    body: int
    results: list[Tensor]


class Block(msgspec.Struct, frozen=True):
    """Steps over `registers` registers. `inputs` are filled by the caller, `constants` are (register, weight).

    `learn` is done on entry. The main block need not say what the shapes of the plan's inputs tell. `checks` are of
    dimensions that this block learns.
    """

    registers: int
    inputs: list[int]
    outputs: list[int]
    steps: list[Native | Host | If | Loop]
    constants: list[tuple[int, str]] = []
    learn: list[Learn] = []
    checks: list[Check] = []


class State(msgspec.Struct, frozen=True):
    """What a context keeps from one run to the next: the output `output` is the next run's input `input`.

    `in_place`: it grows along `axis`, in a buffer of the shape `capacity` that stays where it is: a run writes only
    what is new (a key-value cache), and there is no such output. `grown` (a dim) is its length after a run whose input
    has the length of the dimension `length`; without a `length` it does not grow, and rows of it are replaced. What is
    not `in_place` is handed on: the output becomes the input as it is.
    """

    input: str
    output: str
    axis: int = 0
    capacity: list[int] = []
    length: str = ""
    grown: Any = 0
    in_place: bool = False


class Program(msgspec.Struct, frozen=True):
    """A plan's work for one profile. `blocks[0]` is the main one; bodies come after what contains them. `contents`
    are the ranges (min, opt, max) of the elements of integer inputs that are used as sizes. `independent` are the
    dimensions, outermost in inputs and outputs, along which no element of an output depends on other elements of the
    inputs: a run at a larger size has the same first elements, whatever lies behind them."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    dims: dict[str, tuple[int, int, int]]
    segments: list[Segment]
    blocks: list[Block]
    contents: dict[str, list[tuple[int, int, int]]] = {}
    states: list[State] = []
    independent: list[str] = []

    @property
    def plain(self) -> bool:
        """True if all of it is one native call whose inputs and outputs are the plan's."""
        block = self.blocks[0]
        return (len(block.steps) == 1 and isinstance(block.steps[0], Native) and not block.constants
                and not block.learn and block.steps[0].inputs == block.inputs
                and block.steps[0].outputs == block.outputs)

    @property
    def host_steps(self) -> dict[str, int]:
        """How many steps the host does, bodies included: `reference` kernels, others (`host`), `control` flow."""
        steps = [s for b in self.blocks for s in b.steps]
        reference = sum(isinstance(s, Host) and s.kind in REFERENCE for s in steps)
        return {"reference": reference, "host": sum(isinstance(s, Host) for s in steps) - reference,
                "control": sum(isinstance(s, (If, Loop)) for s in steps)}

    @property
    def learnt(self) -> set[str]:
        """The names that are learnt from data, not from the inputs' shapes."""
        return {n.name for b in self.blocks for part in (b.learn, *(s.learn for s in b.steps)) for n in part}


def straight(inputs: list[Tensor], outputs: list[Tensor], dims: dict[str, tuple[int, int, int]], labels: list[str],
             arena: Any) -> Program:
    """A program of one segment over the plan's own inputs and outputs."""
    ins, outs = list(range(len(inputs))), list(range(len(inputs), len(inputs) + len(outputs)))
    segment = Segment(inputs, outputs, sorted(dims), arena, labels, 0, len(labels))
    block = Block(len(ins) + len(outs), ins, outs, [Native(segment=0, inputs=ins, outputs=outs)])
    return Program(inputs, outputs, dims, [segment], [block])
