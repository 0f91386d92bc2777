"""The command ``rtc-flower``. Heavy imports wait until a command needs them."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtc_flower import cli_keys, cli_ledger, cli_plan, cli_replay
from rtc_flower.errors import FormatError, LedgerError, RtcFlowerError, UnsupportedError

if TYPE_CHECKING:
    from rtc_flower.verify import Report

__all__ = ["app", "main"]

app = typer.Typer(
    help="Signed prediction votes instead of weights, in a ledger that anyone can verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
roster = typer.Typer(help="Who may vote.", no_args_is_help=True)
app.add_typer(roster, name="roster")

app.command()(cli_plan.plan)
app.command()(cli_replay.replay)
cli_ledger.add_commands(app)
cli_keys.add_commands(app, roster)

LedgerPath = Annotated[Path, typer.Argument(help="The ledger file, ledger.db.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def demo(
    dataset: Annotated[str, typer.Option(help="auto, mnist or digits.")] = "auto",
    nodes: Annotated[
        int | None, typer.Option(help="Number of nodes (10 for MNIST, 6 for digits).")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder that holds MNIST/raw; else RTC_FLOWER_DATA.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Let MNIST be downloaded.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Train less.")] = False,
    seed: Annotated[int, typer.Option(help="Who gets which samples; how models begin.")] = 0,
    state_dir: Annotated[
        Path | None, typer.Option(help="Where ledger, keys and logs go; runs/demo-... by default.")
    ] = None,
    deadline: Annotated[float, typer.Option(help="Seconds that a node has.")] = 900.0,
) -> None:
    """Start a SuperLink and SuperNodes here and let them vote: MNIST where found, else digits."""
    import time

    from rtc_flower.carried import check_output
    from rtc_flower.demo import DemoOptions, run_demo, save_json
    from rtc_flower.display import console

    if json_file is not None:  # said before the work, not after it
        check_output(json_file, option="--json")
    state = state_dir or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    options = DemoOptions(
        state_dir=state.absolute(),
        dataset=dataset,
        nodes=nodes,
        data_dir=data_dir,
        download=download,
        quick=quick,
        seed=seed,
        deadline=deadline,
    )
    try:
        result = run_demo(options, console())
    except KeyboardInterrupt:
        typer.echo(  # not by rich, which would break the line in the path
            "\ninterrupted; no process is left. What was counted so far is kept: "
            f"the same command with --state-dir {state} goes on with it",
            err=True,
        )
        raise typer.Exit(130) from None
    if json_file is not None:
        save_json(result, json_file)
    if result.verify != "ok":
        raise typer.Exit(1)


@app.command()
def verify(
    ledger: LedgerPath,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A checkpoint that you hold: the ledger must continue it."),
    ] = None,
    ledger_id: Annotated[
        str | None, typer.Option(help="The ledger that you expect (hexadecimal).")
    ] = None,
    receipt: Annotated[
        list[Path] | None, typer.Option(help="A receipt that you hold; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every signature, block, link and decision. Exit code 0 ok, 1 bad, 2 cannot say.

    A ledger that is not there is bad (V1), not 2: a mistyped path too.
    """
    from rtc_flower.carried import read_any
    from rtc_flower.verify import Verdict
    from rtc_flower.verify import verify as run

    held = None if checkpoint is None else read_any(checkpoint)
    expected = None if ledger_id is None else _hex(ledger_id, "--ledger-id")
    receipts = {str(path): read_any(path) for path in receipt or []}
    report = run(ledger, held=held, ledger_id=expected)
    if (step := report.steps["V11"]).verdict is Verdict.BAD:
        step.detail = f"{checkpoint}: {step.detail}"
    if receipts:
        from rtc_flower.receipts import check_receipts

        check_receipts(report, ledger, receipts)
    with cli_ledger.verdict_told(report.exit_code):
        _print_report(report, as_json)
    raise typer.Exit(report.exit_code)


def _print_report(report: Report, as_json: bool) -> None:
    if as_json:
        steps = [
            {"step": s.number, "verdict": s.verdict.value, "title": s.title, "detail": s.detail}
            for s in report.steps.values()
        ]
        known = {"ledger_id": report.ledger_id, "entries": report.entries, "tasks": report.tasks}
        counts = {"ballots": report.ballots, "votes": report.votes, "notes": report.notes}
        _print_json({"verify": report.summary, **known, **counts, "steps": steps})
    else:
        from rtc_flower.display import console, report_view

        console().print(report_view(report))


@app.command()
def show(
    ledger: LedgerPath,
    task: Annotated[int | None, typer.Option(help="Number of a task, from 1.")] = None,
    sample: Annotated[int | None, typer.Option(help="Draw the forks of a sample, from 0.")] = None,
    as_json: Json = False,
) -> None:
    """Show the tasks; one task and its voters; or the forks of one sample."""
    from rtc_flower.reading import consistent

    with consistent(ledger):
        if sample is not None:
            _show_sample(ledger, 1 if task is None else task, sample, as_json)
        elif task is not None:
            _show_task(ledger, task, as_json)
        else:
            _show_tasks(ledger, as_json)


def _show_tasks(ledger: Path, as_json: bool) -> None:
    from rtc_flower.reading import list_tasks

    tasks = list_tasks(ledger)
    if as_json:
        _print_json([asdict(row) for row in tasks])
        return
    from rtc_flower.display import console, tasks_table

    console().print(tasks_table(tasks))


def _show_sample(ledger: Path, task: int, sample: int, as_json: bool) -> None:
    from rtc_flower.reading import forks_of

    forks = forks_of(ledger, task, sample)
    if as_json:
        drawn = {
            name: [{"position": b.position, "node": b.node, "hash": b.hash.hex()} for b in blocks]
            for name, blocks in forks.forks.items()
        }
        known = {"task": task, "sample": sample, "id": forks.sample_id, "how": forks.how}
        _print_json({**known, "decided_at": forks.decided_at, "forks": drawn})
        return
    from rtc_flower.display import console, draw_forks

    console().print(draw_forks(forks, task=task, sample=sample))


def _show_task(ledger: Path, task: int, as_json: bool) -> None:
    from rtc_flower.reading import NOT_ASKED, votes_of

    votes = votes_of(ledger, task)
    rows: list[dict[str, Any]] = [
        {
            "node": name,
            "contract": contract,
            "counted": bool(counted),
            "votes": int((cast >= 0).sum()),
            "abstained": int((cast == -1).sum()),
            "not_asked": int((cast == NOT_ASKED).sum()),
            "agreement": round(float((cast == votes.classes)[cast >= 0].mean()), 4)
            if (cast >= 0).any()
            else None,
        }
        for name, contract, counted, cast in zip(
            votes.names, votes.contracts, votes.counted, votes.votes, strict=True
        )
    ]
    if as_json:
        _print_json({"task": task, "ballots": rows, "absent": votes.absent})
        return
    from rtc_flower.display import console, printable, records_table

    console().print(records_table(rows, f"task {task}", empty="nobody voted"))
    for name, reason in votes.absent.items():
        console().print(f"absent: {printable(name)} ({reason})", markup=False)


@app.command()
def export(
    ledger: LedgerPath,
    task: Annotated[
        int | None, typer.Option(help="Number of the task, from 1; the first if left out.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File; standard output if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Write a closed task's outcomes as CSV or JSON: class, support, what decided each sample."""
    from rtc_flower.carried import write_output
    from rtc_flower.reading import consistent, list_tasks, outcome_rows

    with consistent(ledger):
        rows = outcome_rows(ledger, 1 if task is None else task)
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = json.dumps(rows, indent=1) + "\n" if as_json else buffer.getvalue()
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_output(output, text, ledger)
    if task is None and (tasks := len(list_tasks(ledger))) > 1:
        typer.echo(f"note: task 1 of {tasks}; --task names another", err=True)


@app.command()
def init(
    state_dir: Annotated[
        Path, typer.Argument(help="Folder for server.key, ledger.db and HEAD.", resolve_path=True)
    ],
    admin_key: Annotated[
        str | None,
        typer.Option(help="Public key (hexadecimal) that alone enrols; open enrolment without."),
    ] = None,
    continues: Annotated[
        Path | None,
        typer.Option(
            help="Last checkpoint of a ledger whose file is lost, which this one follows."
        ),
    ] = None,
    blocks: Annotated[
        bool, typer.Option(help="Keep block rows; without them very large runs take less space.")
    ] = True,
    head_file: Annotated[
        Path | None, typer.Option(help="Where the head is kept as well; better on another disk.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a server key and an empty ledger."""
    from rtc_flower.carried import judged_by, read_text
    from rtc_flower.checkpoint import Checkpoint
    from rtc_flower.entries import Enrolment
    from rtc_flower.keys import check_public_key, load_or_create_key
    from rtc_flower.ledger import Ledger

    admin = None if admin_key is None else _hex(admin_key, "--admin-key")
    if admin is not None:
        with judged_by("--admin-key"):
            check_public_key(admin)
    if head_file is not None and (head_file.is_dir() or not head_file.absolute().parent.is_dir()):
        raise LedgerError(f"--head-file {head_file}: expected a file in a folder that exists")
    if (path := state_dir / "ledger.db").exists():
        raise LedgerError(f"{path} exists already; a ledger is never overwritten")
    if (head := head_file or state_dir / "HEAD").exists():
        raise LedgerError(
            f"{head} exists already, the head of another ledger. If that is lost, bring a backup "
            "back (rtc-flower restore); if there is none, begin with --continues in another folder"
        )
    note = None if continues is None else read_text(continues)
    with judged_by(f"--continues {continues}"):
        old = None if note is None else Checkpoint.parse(note)
    if old is not None and not old.size:
        raise FormatError(
            f"{continues}: expected a checkpoint of at least 1 entry, got one of none"
        )
    key = load_or_create_key(state_dir / "server.key")
    enrolment = Enrolment.OPEN if admin is None else Enrolment.ROSTER
    with Ledger.create(
        path,
        key,
        enrolment=enrolment,
        admin_key=admin,
        continues=old,
        blocks=blocks,
        head_file=head_file,
    ) as ledger:
        known = {
            "ledger": str(ledger.path),
            "ledger_id": ledger.replay.ledger_id.hex(),
            "server_key": key.public.hex(),
            "enrolment": enrolment.name.lower(),
        }
    if as_json:
        _print_json(known)
    else:
        typer.echo("\n".join(f"{name}: {value}" for name, value in known.items()))
    if old is not None and admin is None:
        typer.echo(
            "note: enrolment is open here; a checkpoint does not say whether it was in the old "
            "ledger. Where an admin signed its roster, begin again with --admin-key",
            err=True,
        )


@app.command()
def abort(
    state_dir: cli_keys.StateDir,
    head_file: Annotated[
        Path | None,
        typer.Option(help="The server's head file; HEAD beside the ledger if left out."),
    ] = None,
) -> None:
    """Close the open task without outcomes. The ledger shows it; stop the server first."""
    from rtc_flower.admin import open_state

    cli_keys.say_unknown_head(state_dir, head_file)
    with open_state(state_dir, head_file=head_file) as ledger:
        if ledger.replay.open_task is None:
            raise LedgerError(f"{ledger.path}: expected an open task, found none")
        ledger.abort()
        typer.echo(
            f"task {ledger.replay.number} is closed as aborted; post it again under a new number"
        )


@roster.command("list")
def roster_list(ledger: LedgerPath, as_json: Json = False) -> None:
    """List the enrolled keys."""
    from rtc_flower.reading import consistent, list_roster

    with consistent(ledger):
        _print_records(list_roster(ledger), as_json, "roster")


def _hex(text: str, option: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise LedgerError(f"{option}: expected hexadecimal, got {text!r}") from error


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


def _print_records(records: list[dict[str, Any]], as_json: bool, title: str) -> None:
    if as_json:
        _print_json(records)
        return
    from rtc_flower.display import console, records_table

    console().print(records_table(records, title, empty="nobody is enrolled"))


def main() -> None:
    """Entry point: our errors become a line on standard error; exit code 1, or 2 for cannot say."""
    for stream in (sys.stdout, sys.stderr):  # a name that this terminal cannot show is no failure
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            files = None if stream.isatty() else "utf-8"  # what is kept says what it says
            stream.reconfigure(encoding=files, errors="backslashreplace")
    try:
        app()
    except RtcFlowerError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2 if isinstance(error, UnsupportedError) else 1) from None
    except OSError as error:  # a folder that is a file, one that may not be read, a full disk
        where = "" if error.filename is None else f"{error.filename}: "
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        raise SystemExit(1) from None
