"""`whet doc`: documents of a plan or a configuration, and the check that they still say what these say."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from whet.errors import InputError

if TYPE_CHECKING:
    from whet.doc import Card, Facts
    from whet.doc.check import Make
    from whet.measure.record import Measurement

Option = typer.Option


def command(
    plan: Annotated[Path | None, typer.Argument(help="A plan.", show_default=False)] = None,
    named: Annotated[Path | None, Option("--plan", help="The plan, as with --check.", show_default=False)] = None,
    config: Annotated[Path | None, Option("--config", metavar="FILE", help="A configuration (whet.yaml) to document.",
                                          show_default=False)] = None,
    output: Annotated[Path | None, Option("-o", "--output", metavar="FILE.md", help="Write Markdown. Without any "
                                          "output it is printed.", show_default=False)] = None,
    html: Annotated[Path | None, Option("--html", metavar="FILE", help="Write one page that needs no network.")] = None,
    card: Annotated[Path | None, Option("--card", metavar="README.md", help="Write Markdown with the front matter of a "
                                        "Hugging Face model card.")] = None,
    yaml: Annotated[Path | None, Option("--yaml", metavar="FILE", help="Write the configuration that builds the plan "
                                        "again.")] = None,
    check: Annotated[Path | None, Option("--check", metavar="FILE.md", help="Fail (exit code 1) where the document "
                                         "differs from the plan, the configuration or the records.")] = None,
    update: Annotated[Path | None, Option("--update", metavar="FILE.md", help="Make a file's generated blocks anew; "
                                          "what stands around them stays.")] = None,
    records: Annotated[list[Path] | None, Option("--records", metavar="FILE", help="Measurement records (whet bench "
                                                 "--json): those of this plan are documented. Repeatable.")] = None,
    store: Annotated[str, Option("--store", metavar="PLACE", help="Take records from this measurement store.")] = "",
    base_model: Annotated[str, Option("--base-model", help="For a model card: the model that this was made from, as "
                                                           "org/name.")] = "",
    task: Annotated[str, Option("--task", help="For a model card: image-classification, say.")] = "",
    dataset: Annotated[str, Option("--dataset", help="For a model card: what accuracy was measured on.")] = "",
    force: Annotated[bool, Option("--force", help="Write over what was edited by hand, or written by others.")] = False,
    json: Annotated[str, Option("--json", metavar="FILE", help="Write what --check found as JSON; - is stdout.")] = "",
    lang: Annotated[str, Option("--lang", help="en or zh. With --check and --update each block keeps its own.")] = "en",
) -> None:
    """Document a plan or a configuration, and check that the document still says what they say.

    A document has generated blocks between markers (HTML comments); what you write outside of them is yours. --check
    names each field that drifted, with its line; exit codes: 0 it holds, 1 it does not, 2 bad input, 3 something could
    not be checked (measured figures without their records).

    Examples: whet doc resnet.plan -o resnet.md --records measured.json

    whet doc resnet.plan --card README.md --base-model microsoft/resnet-50 --html resnet.html

    whet doc --check resnet.md --plan resnet.plan --records measured.json

    whet doc --update README.md --plan resnet.plan

    whet doc --config whet.yaml -o builds.md
    """
    from whet import doc
    from whet.report.words import text

    text({"": ("", "")}, "", lang, {})  # a language that is not there is told before anything is read
    if plan is not None and named is not None:
        raise InputError("the plan is named twice", do="name it once")
    path = plan or named
    if path is None and config is None:
        raise InputError("nothing to document", do="name a plan, or a configuration with --config; see whet doc --help")
    given = doc.Card(base_model, task, dataset)
    if given.pairs() and card is None:
        raise InputError("--base-model, --task and --dataset are for a model card", do="give --card README.md")
    told = _facts(path) if path is not None else None
    measured = _records(records or (), store, told)
    makers = _makers(told, measured, config)
    if check is not None:
        raise typer.Exit(_check(check, makers, told is not None and not measured, json))
    if update is not None:
        page = doc.read(update)
        _put(update, doc.updated(page, makers, lang, force))
    if card is not None:
        if told is None:
            raise InputError("a model card is of a plan", do="name a plan")
        _write(card, makers, lang, force, given)
    if output is not None:
        _write(output, makers, lang, force, None)
    if html is not None:
        from whet.doc.page import html as page_of

        _put(html, page_of(makers[0](lang, None)))
    if yaml is not None:
        _export(yaml, told, path, force)
    if not (update or card or output or html or yaml):
        print(doc.written(makers[0](lang, None)), end="")


def _facts(path: Path) -> Facts:
    from whet.doc import facts
    from whet.plan import Plan

    return facts(Plan.open(path))


def _records(files: Sequence[Path], store: str, told: Facts | None) -> list[Measurement]:
    """Records of files and of a store. InputError where they were named, and none is of the plan."""
    from whet.measure.record import read

    found = [r for f in files for r in read(f)]
    if told is None:
        return found
    if store:
        from whet.store import Filters, Store

        with Store(store, create=False) as opened:
            found += [r for r in opened.records(Filters(sha256=told.summary["model"]["sha256"]))
                      if r.plan is not None and r.plan.hash == told.summary["hash"]]
    if (files or store) and not any(r.plan is not None and r.plan.hash == told.summary["hash"] for r in found):
        raise InputError("none of the records is of this plan", where=", ".join(map(str, files)) or store,
                         why=f"{len(found)} records, of other plans or of none",
                         do="measure it: whet bench PLAN --json records.json")
    return found


def _makers(told: Facts | None, measured: list[Measurement], config: Path | None) -> list[Make]:
    from whet.config import read
    from whet.doc import configuration_document, plan_document

    makers: list[Make] = []
    if told is not None:
        makers.append(lambda lang, card: plan_document(told, measured, lang, card))
    if config is not None:
        found = read(config)
        makers.append(lambda lang, card: configuration_document(found, lang))
    return makers


def _check(file: Path, makers: Sequence[Make], unrecorded: bool, json: str) -> int:
    """Compare, say what drifted, and give the exit code."""
    import msgspec

    from whet import doc
    from whet.doc.check import record

    found = doc.check(doc.read(file), makers, unrecorded)
    if json:
        data = msgspec.json.format(msgspec.json.encode(record(found, str(file))), indent=1) + b"\n"
        if json == "-":
            sys.stdout.buffer.write(data)
            return found.exit_code
        from whet.cli.files import write_bytes

        write_bytes(Path(json), data)
    out = Console(highlight=False, soft_wrap=True)
    for drift in found.drifts:
        out.print(str(drift), markup=False)
    for block in found.edited:
        out.print(f"edited by hand: {block}", markup=False)
    for block in found.unchecked:
        out.print(f"not checked: {block}", markup=False)
    many = "a difference" if len(found.drifts) == 1 else f"{len(found.drifts)} differences"
    out.print(f"{file}: {many}; whet doc --update writes the blocks anew." if found.drifts else
              f"{file}: what was checked holds, but not all could be." if found.unchecked else
              f"{file}: {found.blocks} blocks, all as they should be.", markup=False)
    return found.exit_code


def _write(file: Path, makers: Sequence[Make], lang: str, force: bool, card: Card | None) -> None:
    """A new document; one that holds somebody's own text is left alone."""
    from whet import doc

    if file.exists() and not force and not doc.generated_alone(doc.read(file)):
        raise InputError("the file holds text that whet did not write", where=str(file),
                         do=f"whet doc --update {file} keeps it, --force throws it away")
    if len(makers) > 1:
        raise InputError("a plan and a configuration in one new file", do="write two, or --update one with the other")
    _put(file, doc.written(makers[0](lang, card)))


def _export(file: Path, told: Facts | None, plan: Path | None, force: bool) -> None:
    from whet.config.writing import exported

    if told is None or told.built is None or plan is None:
        raise InputError("there is no record of a build to write down", where=str(plan or ""),
                         why="the plan is of a whet that did not record it" if told is not None else "no plan is named",
                         do="build the plan anew")
    if file.exists() and not force:
        raise InputError("the file is there already", where=str(file), do="name another, or --force")
    _put(file, exported(told.built.asked, told.built.objects, plan.stem, plan.name))


def _put(file: Path, text: str) -> None:
    from whet.cli.files import write_bytes

    write_bytes(file, text.encode())
