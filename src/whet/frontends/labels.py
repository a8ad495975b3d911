"""Classifiers whose labels are strings: numbers from the classifier, and a step that names them."""

from __future__ import annotations

import onnx
from onnx import NodeProto, helper

ML = "ai.onnx.ml"
LABELS = {"TreeEnsembleClassifier": "classlabels_int64s", "LinearClassifier": "classlabels_ints",
          "SVMClassifier": "classlabels_ints"}


def _has_names(n: NodeProto) -> bool:
    return n.domain == ML and n.op_type in LABELS and any(a.name == "classlabels_strings" and a.strings
                                                          for a in n.attribute)


def numbered(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every such classifier giving class numbers, which a LabelEncoder turns into the strings: so the
    scores are compiled, and only the names are looked up on the host. The model itself where there is none."""
    nodes = model.graph.node
    old = any(o.domain == ML and o.version < 2 for o in model.opset_import)
    if not any(_has_names(n) for n in nodes) or (old and any(n.op_type == "LabelEncoder" for n in nodes)):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for o in changed.opset_import:
        if o.domain == ML:  # from version 1 to 2 LabelEncoder alone is another
            o.version = max(o.version, 2)
    taken = {o for n in changed.graph.node for o in n.output}
    for n in list(changed.graph.node):
        if not _has_names(n) or not n.output[0]:
            continue
        names = next(list(a.strings) for a in n.attribute if a.name == "classlabels_strings")
        kept = [a for a in n.attribute if a.name not in ("classlabels_strings", LABELS[n.op_type])]
        del n.attribute[:]
        n.attribute.extend([*kept, helper.make_attribute(LABELS[n.op_type], list(range(len(names))))])
        number = f"{n.output[0]}_number"
        while number in taken:
            number += "_"
        taken.add(number)
        encoder = helper.make_node("LabelEncoder", [number], [n.output[0]], domain=ML,
                                   keys_int64s=list(range(len(names))), values_strings=names)
        n.output[0] = number
        changed.graph.node.append(encoder)
    return changed
