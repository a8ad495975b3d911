"""Progress of a build: what is being tuned, how far it is, and about how long it will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


@contextmanager
def build_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (what, done, total) that draws a bar on stderr; total 0 is a stage of unknown length."""
    columns = (TextColumn("[bold]{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def update(what: str, done: int, total: int) -> None:
            bar.update(task, description=what[:44], completed=done, total=total or None)

        yield update
