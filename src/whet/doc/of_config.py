"""From a configuration file to a document: a table, the flow and the command line of each of its builds."""

from __future__ import annotations

from whet.command import build_command
from whet.config import Configuration
from whet.doc import flow
from whet.doc.of_plan import option_rows
from whet.doc.parts import LONGEST_COMMAND, Block, Command, Document, Mono, Table, Text, visible
from whet.doc.words import text


def configuration_document(found: Configuration, lang: str = "en") -> Document:
    """The document of a configuration's builds. InputError for an unknown language."""
    title = text("config title", lang, file=visible(found.path.name))
    columns = (text("parameter", lang), text("value", lang), text("meaning", lang))
    names = ", ".join(found.builds)
    blocks = [Block("builds", title, (Text(visible(names)),), 1)]
    for name, build in found.builds.items():
        asked = build.asked()
        rows = tuple((Mono(cells[0]), cells[1], cells[2]) for cells in option_rows(asked, lang))
        blocks.append(Block(f"build.{name}", text("build", lang, build=name), (
            Table(columns, rows), Text(text("flow config", lang)), flow.of_build(asked, lang),
            Text(text("command", lang)), Command(visible(build_command(asked), LONGEST_COMMAND)))))
    return Document(title, lang, tuple(blocks))
