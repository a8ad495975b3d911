"""A package of plugins that are wrong on purpose, and models that use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from tools.surgery import network, tensor

DOMAIN = "com.example.wrong"
PACKAGE = '''
"""Operators whose compiled form is not what their function says."""

import os
import time

import whet

DOMAIN = "com.example.wrong"
same = whet.plugins.like_first


def negated(call):
    return call.builder.emit("neg", call.inputs[0])


def no_number(call):
    x = call.inputs[0]
    return call.builder.emit("log", call.builder.emit("neg", call.builder.emit("abs", x)))


def refused(call):
    raise ValueError("not today")


@whet.plugin(DOMAIN, "Twice", shape=same, lower=negated)
def twice(x):
    return x + x


@whet.plugin(DOMAIN, "Half", shape=same, lower=no_number)
def half(x):
    return x / 2


@whet.plugin(DOMAIN, "Refused", shape=same, lower=refused)
def also_half(x):
    return x / 2


@whet.plugin(DOMAIN, "Crash", shape=same)
def crash(x):
    os.abort()


@whet.plugin(DOMAIN, "Hang", shape=same)
def hang(x):
    time.sleep(600)
'''


def install(folder: Path) -> Path:
    """Write the package, with the entry point that brings its plugins, so that a path of this folder has it."""
    info = folder / "whet_wrong-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "whet_wrong.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: whet-wrong\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[whet.plugins]\nwrong = whet_wrong\n")
    return folder


def faulty(op: str) -> onnx.ModelProto:
    """`surgery.network` with an operator between its second layer and its last: b -> wrong."""
    m = network(np.random.default_rng(0))
    nodes = list(m.graph.node)
    del m.graph.node[:]
    for n in nodes:
        if n.name == "second":
            m.graph.node.append(helper.make_node(op, ["b"], ["wrong"], name="bad", domain=DOMAIN))
            n.input[0] = "wrong"
        m.graph.node.append(n)
    m.graph.value_info.append(tensor("wrong", ["n", 64]))
    m.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return m
