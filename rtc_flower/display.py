"""Tables and fork drawings for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rtc_flower.reading import SampleForks, TaskRow
from rtc_flower.verify import Report, Verdict

__all__ = ["draw_forks", "printable", "records_table", "report_view", "tasks_table"]

_PLAIN_WIDTH = 120
_COLOURS = {Verdict.OK: "green", Verdict.BAD: "bold red", Verdict.NOT_CHECKED: "yellow"}


def printable(text: object) -> str:
    """What others wrote, fit for a terminal: whatever is not printable is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def records_table(
    records: Iterable[dict[str, Any]], title: str = "", *, empty: str = "none"
) -> RenderableType:
    """Table of records that share their keys; numbers to the right. ``empty`` if there is none."""
    rows = list(records)
    if not rows:
        return Text(f"{title}: {empty}" if title else empty)
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for name in rows[0]:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # As Text, since a name may look like markup.
        table.add_row(*(Text("" if value is None else printable(value)) for value in row.values()))
    return table


def tasks_table(tasks: Iterable[TaskRow]) -> RenderableType:
    """One line per task: what was asked, who answered, and how it ended."""
    rows = [
        {
            "task": row.task,
            "samples": row.n,
            "classes": row.k,
            "kind": row.kind,
            "rule": f"{row.rule}, {row.counting}",
            "counted": f"{row.counted or 0} of {row.electorate}",
            "late": row.uncounted,
            "absent": row.absent,
            "idle": row.uninvited,
            "closed": row.reason or "open: votes are sealed",
            "cosigned by": "" if row.reason is None else f"{row.cosigned} of {row.enrolled}",
        }
        for row in tasks
    ]
    return records_table(rows, empty="no task was posted yet")


def draw_forks(forks: SampleForks, *, task: int, sample: int, root: str = "TASK") -> Group:
    """Forks of one sample, one line each, the longest first; blocks in counting order."""
    name = f" ({printable(forks.sample_id)})" if forks.sample_id else ""
    head = Text(f"task {task}, sample {sample}{name}: {_verdict(forks)}", style="bold")
    width = max((len(printable(label)) for label in forks.forks), default=0)
    lines = [head]
    for number, (label, blocks) in enumerate(forks.forks.items()):
        line = Text(f"  {root} ", style="dim")
        for block in blocks:
            line.append("─", style="dim")
            said = f"[{printable(block.node)} #{block.position + 1}]"
            line.append(said, "green" if number == 0 else "red")
        line.append(
            f"  {printable(label).rjust(width)} × {len(blocks)}",
            style="bold" if number == 0 else "",
        )
        lines.append(line)
    if not forks.forks:
        lines.append(Text("  nobody voted", style="dim"))
    return Group(*lines)


def _verdict(forks: SampleForks) -> str:
    if not forks.forks:
        return "no outcome"
    winner = next(iter(forks.forks))
    how = {
        "certain": f"certain after {forks.decided_at} ballots: no later vote could change it",
        "certified": f"certified after {forks.decided_at} ballots",
        "lead": f"decided by its lead after {forks.decided_at} ballots",
        "full": f"the longest fork once all {forks.decided_at} ballots were counted",
        "open": f"the longest fork so far, after {forks.decided_at} ballots",
    }[forks.how]
    return f"{winner!r}, {how}"


def report_view(report: Report) -> Group:
    """Numbered steps of a verification with their verdicts."""
    table = Table.grid(padding=(0, 2))
    for step in report.steps.values():
        verdict = Text(step.verdict.value, style=_COLOURS[step.verdict])
        text = Text(step.title)
        if step.detail:
            text.append(f"\n{printable(step.detail)}", style=_COLOURS[step.verdict])
        table.add_row(step.number, verdict, text)
    counts = (
        f"entries {report.entries:,}, tasks {report.tasks:,}, ballots {report.ballots:,}, "
        f"votes {report.votes:,}; ledger {report.ledger_id[:16]}"
    )
    notes = [Text(f"note: {printable(note)}", style="yellow") for note in report.notes]
    style = "green" if report.exit_code == 0 else "bold red"
    return Group(
        table, Text(counts, style="dim"), *notes, Text(printable(report.summary), style=style)
    )


def console(*, stderr: bool = False) -> Console:
    """Console for results; wide enough for its tables when output is no terminal."""
    plain = Console(stderr=stderr, highlight=False)
    if plain.is_terminal:
        return plain
    return Console(stderr=stderr, highlight=False, width=_PLAIN_WIDTH)
