"""Documents of plans and configurations that cannot drift from them: Markdown, model cards and HTML made from a plan's
manifest, evidence and measurement records, and the check that reads both again. (docs/documents.md)"""

from __future__ import annotations

from whet.doc.check import Drift, Verdict, check
from whet.doc.marked import parse, read
from whet.doc.of_config import configuration_document
from whet.doc.of_plan import Card, Facts, facts, plan_document
from whet.doc.parts import Document
from whet.doc.update import generated_alone, updated, written

__all__ = ["Card", "Document", "Drift", "Facts", "Verdict", "check", "configuration_document", "facts",
           "generated_alone", "parse", "plan_document", "read", "updated", "written"]
