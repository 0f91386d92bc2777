"""``rtc-flower replay``: votes that somebody else collected, in a ledger of their own."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["replay"]


def replay(
    votes: Annotated[
        Path,
        typer.Argument(help="CSV or .npz, see above."),
    ],
    truth: Annotated[Path | None, typer.Option(help="CSV, .npz or .npy, see above.")] = None,
    rule: Annotated[str, typer.Option(help="certain, certified, paper or all.")] = "certain",
    inv_delta: Annotated[int, typer.Option(help="1 / delta of certified.")] = 1000,
    lead: Annotated[int, typer.Option(help="Lead of the rule paper.")] = 21,
    min_ballots: Annotated[int, typer.Option(help="No rule fires before so many ballots.")] = 1,
    classes: Annotated[
        str | None, typer.Option(help="Names of all classes, separated by commas.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="File to make; runs/replay-.../ledger.db by default.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
) -> None:
    """Let recorded votes decide: crowd labels, or the answers of models that exist already.

    VOTES as CSV: a header with node,sample,class in any order, other columns
    are ignored; then a row per vote. A row that is not there is an abstention.
    As .npz: an integer array 'votes' of nodes x samples, with class indices
    from 0; negative = abstained.

    --truth as CSV: a header with sample,class and a row for each sample of the
    votes. As .npz (an integer array 'truth') or .npy: a class index from 0 for
    each sample, in the order of the votes' array.
    """
    from rtc_flower.carried import check_output
    from rtc_flower.display import console, records_table
    from rtc_flower.errors import RtcFlowerError
    from rtc_flower.files import write_atomically
    from rtc_flower.replaying import replay as run

    if json_file is not None:  # said before the work, not after it
        check_output(json_file, votes, *filter(None, [truth]), option="--json")
    path = ledger or Path("runs") / time.strftime("replay-%Y%m%d-%H%M%S") / "ledger.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        result = run(
            votes,
            ledger=path,
            truth=truth,
            rule=rule,
            classes=None if classes is None else [name.strip() for name in classes.split(",")],
            inv_delta=inv_delta,
            lead=lead,
            min_ballots=min_ballots,
        )
    except RtcFlowerError:
        if ledger is None:  # our own folder, which would stay behind empty
            with suppress(OSError):
                path.parent.rmdir()
        raise
    figures = asdict(result)
    if json_file is not None:
        write_atomically(json_file, json.dumps(figures, indent=2) + "\n")
    console().print(
        records_table(
            {"figure": name, "value": "not known: no --truth" if value is None else str(value)}
            for name, value in figures.items()
        )
    )
    if result.verify != "ok":
        raise typer.Exit(1)
