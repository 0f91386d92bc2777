"""Commands around a ledger file: ``receipt``, ``compare``, ``repair``, ``backup``, ``restore``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from rtc_flower.errors import (
    FormatError,
    KeyFormatError,
    LedgerError,
    RtcFlowerError,
    SignatureError,
    UnsupportedError,
)

__all__ = ["add_commands", "verdict_told"]

LedgerPath = Annotated[Path, typer.Argument(help="The ledger file, ledger.db.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (receipt, compare, repair, backup, restore):
        app.command()(command)


def receipt(
    files: Annotated[list[Path], typer.Argument(help="Receipts that a node kept.")],
    ledger: Annotated[
        Path | None, typer.Option(help="Also check that this ledger still has the ballot.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check receipts: a signed ballot, its place in the log, and the signed checkpoint.

    Exit code 0 all are good, 1 one is bad, 2 one is of a newer version.
    """
    if len(files) == 1:
        _print(_checked(files[0], ledger), as_json)
        return
    found: list[dict[str, Any]] = []
    for file in files:
        try:
            said = _checked(file, ledger)
        except (FormatError, KeyFormatError, SignatureError) as error:
            said = {"receipt": "bad", "detail": str(error)}
        except UnsupportedError as error:
            said = {"receipt": "not checked", "detail": str(error)}
        found.append({"file": str(file), **said})
    typer.echo(json.dumps(found, indent=1) if as_json else "\n\n".join(map(_lines, found)))
    verdicts = {said["receipt"] for said in found}
    raise typer.Exit(1 if "bad" in verdicts else 2 if "not checked" in verdicts else 0)


def _checked(file: Path, ledger: Path | None) -> dict[str, Any]:
    """What a good receipt says."""
    from rtc_flower.carried import judged_by, read_text
    from rtc_flower.checkpoint import Checkpoint
    from rtc_flower.receipts import KeptReceipt

    with judged_by("V13"):
        text = read_text(file)
        with judged_by(str(file)):
            kept = KeptReceipt.from_json(text)
            header = kept.check().header
            if ledger is not None:
                kept.check_in(ledger)
    return {
        "receipt": "ok",
        "ledger_id": header.ledger_id.hex(),
        "task_id": header.task_id.hex(),
        "voter": header.voter.hex(),
        "ballot_id": header.ballot_id.hex(),
        "votes": header.n,
        "entry": kept.index,
        "claimed_time": _time(kept.time_ms),
        "checkpoint_size": Checkpoint.parse(kept.checkpoint).size,
        "in_ledger": "not checked" if ledger is None else "yes",
    }


def _time(milliseconds: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms after 1970"


def compare(
    first: Annotated[Path | None, typer.Argument(help="A checkpoint or a ledger.")] = None,
    second: Annotated[Path | None, typer.Argument(help="Another one.")] = None,
    proof: Annotated[
        Path | None, typer.Option(help="Check a proof that compare has written.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the proof goes; two-histories-... by default."),
    ] = None,
    server_key: Annotated[
        str | None, typer.Option(help="The server's public key (hexadecimal).")
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(help="A ledger or a receipt that shows whose signatures count."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell whether two checkpoints or ledgers are of one history.

    Exit code 0 consistent, 1 inconsistent (a proof is written), 2 cannot say,
    also when a file is missing or is no good checkpoint or ledger, or nobody can
    tell whose signatures those are (two checkpoints without --server-key and
    --identity).

    With --proof: 0 it holds, 1 it proves nothing, 2 it cannot be read, or
    nobody can tell whose signatures those are.
    """
    from rtc_flower.compare import Identity

    with _cannot_say():
        key = _key(server_key)
    if proof is not None and first is None:
        raise typer.Exit(_check_proof(proof, key, identity, as_json))
    with _cannot_say():
        if proof is not None or first is None or second is None:
            raise LedgerError("compare needs two checkpoints or ledgers, or --proof alone")
        known = Identity(server_key=key) if key else None
        if identity is not None:
            known = replace(Identity.read(identity), server_key=key)
    raise typer.Exit(_compare(first, second, known, output, as_json))


@contextmanager
def verdict_told(code: int) -> Iterator[None]:
    """Keep a verdict's exit code where it cannot be printed; 2 for one that nobody was told."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        sys.stdout = None  # nothing more can be written at the end
        typer.echo(f"error: standard output: {error.strerror}", err=True)
        raise typer.Exit(code or 2) from None
    except SystemExit:  # rich, where the reader of its pipe is gone
        raise typer.Exit(code or 2) from None


@contextmanager
def _cannot_say() -> Iterator[None]:
    """End with exit code 2 where an error keeps us from looking: 1 would accuse a server."""
    try:
        yield
    except (RtcFlowerError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _key(text: str | None) -> bytes:
    from rtc_flower.carried import judged_by
    from rtc_flower.keys import check_public_key

    if text is None:
        return b""
    key = _hex(text, "--server-key")
    with judged_by("--server-key"):
        check_public_key(key)
    return key


def _check_proof(path: Path, key: bytes, identity: Path | None, as_json: bool) -> int:
    from rtc_flower.carried import judged_by, read_any
    from rtc_flower.checkpoint import Checkpoint
    from rtc_flower.compare import Identity, TwoHistories

    with _cannot_say():
        text = read_any(path)
        known = None if identity is None else Identity.read(identity)
    with judged_by(f"section 1.4: {path}"):
        proof = TwoHistories.from_json(text, server_key=key, identity=known)
        signed = proof.check()
    first = Checkpoint.parse(proof.first.note)
    said = {
        "proof": "holds" if signed else "cannot say",
        "ledger_id": first.ledger_id.hex(),
        "detail": f"two histories of the first {first.size} entries",
        "signatures": _signatures(signed),
    }
    with verdict_told(0 if signed else 2):
        _print(said, as_json)
    return 0 if signed else 2


def _signatures(signed: bool) -> str:
    hint = "not checked: bring --server-key, or --identity with a ledger or a receipt"
    return "ok" if signed else hint


def _compare(first: Path, second: Path, known: Any, output: Path | None, as_json: bool) -> int:
    from rtc_flower.carried import judged_by, write_output
    from rtc_flower.checkpoint import Checkpoint
    from rtc_flower.compare import compare as run

    with _cannot_say(), judged_by("section 1.2"):
        found = run(first, second, identity=known)
    said = {
        "compare": found.verdict,
        "detail": found.detail,
        "signatures": _signatures(found.signed),
    }
    if found.proof is not None:
        stated = Checkpoint.parse(found.proof.first.note)
        name = f"two-histories-{stated.ledger_id.hex()[:16]}-{stated.size}.json"
        target = output or Path(name)
        try:
            write_output(target, found.proof.to_json(), first, second)
            said["proof"] = str(target)
        except LedgerError as error:  # two histories are said all the same
            said["proof"] = f"not written: {error}; name a file with --output and run again"
    with verdict_told(found.exit_code):
        _print(said, as_json)
    return found.exit_code


def repair(
    ledger: LedgerPath,
    blocks: Annotated[
        bool | None,
        typer.Option(
            "--blocks/--no-blocks", help="Keep block rows from now on, or leave them out."
        ),
    ] = None,
) -> None:
    """Roll back what a killed writer left, and derive all rows from the log again; then verify."""
    from rtc_flower.display import console, report_view
    from rtc_flower.maintenance import repair as run

    console().print(report_view(run(ledger, blocks=blocks)))


def backup(
    ledger: LedgerPath,
    destination: Annotated[Path, typer.Argument(help="The copy; must not exist.")],
    as_json: Json = False,
) -> None:
    """Copy a ledger, also while a server is writing it; without the server's key.

    Keep server.key apart: the ledger cannot be gone on with without it.
    """
    from rtc_flower.checkpoint import Checkpoint
    from rtc_flower.maintenance import backup as run

    note = run(ledger, destination)
    size = Checkpoint.parse(note).size
    key = "not in the copy; keep server.key apart, nobody can go on with the ledger without it"
    said = {"backup": str(destination), "entries": size, "server_key": key, "checkpoint": note}
    _print(said, as_json)


def restore(
    source: Annotated[Path, typer.Argument(help="The backup.", metavar="BACKUP")],
    ledger: Annotated[Path, typer.Argument(help="Where the ledger was; must be moved away.")],
    head_file: Annotated[
        Path | None, typer.Option(help="The server's head file; HEAD beside the ledger if left out")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put a backup in the place of a lost ledger; refused when the head is ahead of it.

    The server's key is in no backup: bring server.key back beside the ledger.
    """
    from rtc_flower.cli_keys import unknown_head
    from rtc_flower.maintenance import restore as run

    unknown = unknown_head(head_file or ledger.parent / "HEAD")
    report = run(source, ledger, head_file=head_file)
    note = f"{unknown} this is" if unknown else "ok"
    said = {"restored": str(ledger), "entries": report.entries, "head": note}
    if not (key := ledger.parent / "server.key").exists():
        said["server_key"] = f"not there: bring {key} back to go on with this ledger"
    _print(said, as_json)


def _hex(text: str, option: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise FormatError(f"{option}: expected hexadecimal, got {text!r}") from error


def _print(fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(fields, indent=1))
    else:
        typer.echo(_lines(fields))


def _lines(fields: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}".rstrip() for name, value in fields.items())
