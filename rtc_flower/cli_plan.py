"""Commands that ask what to expect: ``rtc-flower plan``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtc_flower.errors import LedgerError, RtcFlowerError, TaskError

if TYPE_CHECKING:
    from rtc_flower.planning import Plan

__all__ = ["plan"]

_OPTIONS = {"honest": "nodes", "k": "classes", "p": "accuracy"}  # where the names differ


def plan(
    nodes: Annotated[int, typer.Option(help="Honest nodes.")],
    classes: Annotated[int | None, typer.Option(help="Number of classes.")] = None,
    accuracy: Annotated[float | None, typer.Option(help="Accuracy of an honest node.")] = None,
    icc: Annotated[
        float | None, typer.Option(help="Correlation of the nodes' errors, 0 to 1.")
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(help="Estimate classes, accuracy and correlation from its closed tasks."),
    ] = None,
    lazy: Annotated[int, typer.Option(help="Nodes that guess.")] = 0,
    sybil: Annotated[int, typer.Option(help="Nodes that agree on a wrong class.")] = 0,
    target: Annotated[float, typer.Option(help="Accuracy that you need.")] = 0.99,
    risk: Annotated[
        float, typer.Option(help="Probability with which stopping early may change a label.")
    ] = 0.001,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what accuracy to expect, how many nodes are needed, and which stop rule to use."""
    if ledger is not None:
        known = _estimate(ledger)
        if accuracy is None or icc is None:
            typer.echo(
                "note: estimated against the outcomes, not the truth: errors that the nodes of "
                "this ledger share are not seen",
                err=True,
            )
        classes = known[0] if classes is None else classes
        accuracy = known[1] if accuracy is None else accuracy
        icc = known[2] if icc is None else icc
    if classes is None or accuracy is None:
        raise LedgerError("plan needs --classes and --accuracy, or --ledger to estimate them from")
    from rtc_flower.planning import plan as run

    correlation = 0.0 if icc is None else icc
    try:
        made = run(
            classes,
            accuracy,
            honest=nodes,
            lazy=lazy,
            sybil=sybil,
            icc=correlation,
            target=target,
            risk=risk,
        )
    except (ValueError, TaskError) as error:  # begins with the argument's name
        name, _, rest = str(error).partition(" ")
        raise RtcFlowerError(f"--{_OPTIONS.get(name, name)} {rest}") from error
    if as_json:
        assumed = {"classes": classes, "node_accuracy": accuracy, "icc": correlation}
        typer.echo(json.dumps(assumed | asdict(made), indent=1))
    else:
        _print(made, classes, accuracy, correlation, target, risk, sybil=sybil)


def _estimate(ledger: Path) -> tuple[int, float, float]:
    """Classes, mean agreement with the outcomes, and error correlation of a ledger's last task."""
    from rtc_flower.reading import consistent, list_tasks, votes_of
    from rtc_flower.theory import icc

    closed = [row for row in list_tasks(ledger) if row.reason not in (None, "aborted")]
    if not closed:
        raise LedgerError(f"{ledger}: expected a closed task to estimate from, found none")
    with consistent(ledger):
        votes = votes_of(ledger, closed[-1].task)
        cast = votes.votes >= 0
        right = float((votes.votes == votes.classes)[cast].mean())
    try:
        correlation = max(0.0, icc(votes.votes, votes.classes))
    except ValueError:
        correlation = 0.0  # one ballot, or no error at all: nothing to correlate
    return len(votes.class_names), right, correlation


def _print(
    made: Plan, classes: int, accuracy: float, icc: float, target: float, risk: float, *, sybil: int
) -> None:
    from rtc_flower.display import console, records_table

    out = console()
    out.print(
        f"{made.electorate} nodes, {classes} classes; an honest node is right with probability "
        f"{accuracy:.4g}; error correlation {icc:.3g} (worth {made.effective_votes:.1f} "
        "independent honest nodes)"
    )
    rows = [
        {"what": "accuracy, independent errors", "value": f"{made.accuracy:.6f}"},
        {
            "what": "accuracy, correlated errors",
            "value": "not known with lazy or Sybil nodes"
            if made.accuracy_correlated is None
            else f"{made.accuracy_correlated:.6f}",
        },
        {"what": "expected lead of the right fork", "value": f"{made.expected_lead:+.1f} votes"},
        {
            "what": f"honest nodes for accuracy {target:g}, independent",
            "value": _number(made.nodes_needed),
        },
        {
            "what": f"honest nodes for accuracy {target:g}, correlated",
            "value": "not known with Sybil nodes"
            if sybil
            else _number(made.nodes_needed_correlated),
        },
    ]
    out.print(records_table(rows))
    out.print(
        records_table(
            {
                "rule": name,
                "votes per sample": f"{votes:.1f}",
                "samples decided early": f"{made.share_decided[name]:.1%}",
            }
            for name, votes in made.expected_votes.items()
        )
    )
    extra = f" with inv-delta {made.inv_delta} (risk {risk:g})" * (made.rule == "certified")
    out.print(f"use rule [bold]{made.rule}[/]{extra}")


def _number(nodes: int | None) -> str:
    return "no number is enough" if nodes is None else str(nodes)
