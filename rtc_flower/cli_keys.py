"""Commands for keys over time: ``keygen``, ``node-key``, ``rotate-server-key``, ``roster ...``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtc_flower.errors import FormatError

if TYPE_CHECKING:
    from rtc_flower.roster import Roster

__all__ = ["StateDir", "add_commands", "say_unknown_head", "unknown_head"]

StateDir = Annotated[
    Path,
    typer.Argument(help="The server's folder: server.key and ledger.db.", resolve_path=True),
]
HeadFile = Annotated[
    Path | None, typer.Option(help="The server's head file; HEAD beside the ledger if left out.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]
Enrol = Annotated[list[str] | None, typer.Option("--enrol", help="A newcomer: name=KEY (hex).")]
Revoke = Annotated[list[str] | None, typer.Option("--revoke", help="Name of a member.")]
Rotate = Annotated[
    list[str] | None, typer.Option("--rotate", help="A member's new key: name=KEY (hex).")
]


def add_commands(app: typer.Typer, roster: typer.Typer) -> None:
    """Add the commands to ``app``, and those about the roster to ``roster``."""
    app.command()(keygen)
    app.command("node-key")(node_key)
    app.command("rotate-server-key")(rotate_server_key)
    roster.command("request")(request)
    roster.command("sign")(sign)
    roster.command("apply")(apply)
    roster.command("enrol")(enrol)
    roster.command("revoke")(revoke)
    roster.command("rotate")(rotate)


def say_unknown_head(state_dir: Path, head_file: Path | None) -> None:
    """Say that a ledger is about to be opened without the head that shows how old it is."""
    if (state_dir / "ledger.db").exists():
        unknown = unknown_head(head_file or state_dir / "HEAD")
        if unknown:
            typer.echo(f"head: {unknown} this ledger is; it is made now", err=True)


def unknown_head(head: Path) -> str:
    """Why a head file cannot show how old something is; "" where it can.

    A power cut may leave it empty, which is as good as none.
    """
    if head.exists() and head.stat().st_size:
        return ""
    found = "empty" if head.exists() else "not there"
    return f"not checked: {head} is {found}, so nobody can tell how old"


def keygen(
    file: Annotated[Path, typer.Argument(help="The new key file, for its owner alone.")],
) -> None:
    """Make an admin key and print its public half, for 'init --admin-key'."""
    from rtc_flower.admin import make_key

    typer.echo(make_key(file).public.hex())


def node_key(
    state_dir: Annotated[
        Path, typer.Argument(help="The node's folder; made if need be.", resolve_path=True)
    ],
) -> None:
    """Print a node's public key, for enrolment; it is made when there is none."""
    from rtc_flower.clients.voter import Voter

    typer.echo(Voter(state_dir, name="").key.public.hex())


def rotate_server_key(state_dir: StateDir, head_file: HeadFile = None) -> None:
    """Make a new server key, which signs from the next checkpoint on; the old one is gone."""
    from rtc_flower.admin import rotate_server_key as run

    say_unknown_head(state_dir, head_file)
    typer.echo(f"server_key: {run(state_dir, head_file=head_file).public.hex()}")


def request(
    ledger: Annotated[Path, typer.Argument(help="The ledger file, ledger.db.")], output: Output
) -> None:
    """Write what the admin's machine needs to sign the next roster."""
    from rtc_flower.admin import RosterRequest
    from rtc_flower.carried import write_output

    made = RosterRequest.of(ledger)
    write_output(output, made.to_json(), ledger)
    typer.echo(f"{output}: roster version {made.read_roster().version}")


def sign(
    file: Annotated[Path, typer.Argument(help="The request.")],
    key: Annotated[Path, typer.Option(help="The admin's key file.")],
    output: Output,
    enrol: Enrol = None,
    revoke: Revoke = None,
    rotate: Rotate = None,
) -> None:
    """Sign the next roster; needs the admin key and no ledger."""
    from rtc_flower.admin import RosterRequest, load_key
    from rtc_flower.carried import judged_by, read_text, write_output

    with judged_by("V6"):
        text = read_text(file)
        with judged_by(str(file)):
            asked = RosterRequest.from_json(text)
    signed = asked.sign(
        load_key(key), enrol=_pairs(enrol), revoke=revoke or [], rotate=_pairs(rotate)
    )
    write_output(output, signed.to_json(), file, key)
    typer.echo(f"ledger {signed.ledger_id.hex()}")
    _print_roster(signed.roster)


def apply(
    state_dir: StateDir,
    file: Annotated[Path, typer.Argument(help="The signed roster.")],
    head_file: HeadFile = None,
) -> None:
    """Append a roster that the admin signed; it takes effect with the next task."""
    from rtc_flower.admin import SignedRoster, apply_roster, open_state
    from rtc_flower.carried import judged_by, read_text

    with judged_by("V6"):
        text = read_text(file)
        with judged_by(str(file)):
            signed = SignedRoster.from_json(text)
    say_unknown_head(state_dir, head_file)
    with open_state(state_dir, head_file=head_file) as ledger, judged_by("V6"):
        apply_roster(ledger, signed)
    _print_roster(signed.roster)


def _change(
    state_dir: Path,
    head_file: Path | None,
    *,
    enrol: list[str] | None = None,
    revoke: list[str] | None = None,
    rotate: list[str] | None = None,
) -> None:
    from rtc_flower.admin import change_roster, open_state

    added, renewed = _pairs(enrol), _pairs(rotate)
    say_unknown_head(state_dir, head_file)
    with open_state(state_dir, head_file=head_file) as ledger:
        roster = change_roster(ledger, enrol=added, revoke=revoke or [], rotate=renewed)
    _print_roster(roster)


def enrol(
    state_dir: StateDir,
    members: Annotated[list[str], typer.Argument(help="name=KEY (hex).")],
    head_file: HeadFile = None,
) -> None:
    """Enrol nodes, under open enrolment."""
    _change(state_dir, head_file, enrol=members)


def revoke(
    state_dir: StateDir,
    names: Annotated[list[str], typer.Argument(help="Names of members.")],
    head_file: HeadFile = None,
) -> None:
    """Let members vote no more, under open enrolment."""
    _change(state_dir, head_file, revoke=names)


def rotate(
    state_dir: StateDir,
    members: Annotated[list[str], typer.Argument(help="name=KEY (hex) of members.")],
    head_file: HeadFile = None,
) -> None:
    """Give members new keys under their names and revoke the old, under open enrolment."""
    _change(state_dir, head_file, rotate=members)


def _pairs(texts: list[str] | None) -> list[tuple[str, bytes]]:
    pairs = []
    for text in texts or []:
        name, _, key = text.rpartition("=")
        try:
            pairs.append((name, bytes.fromhex(key)))
        except ValueError as error:
            raise FormatError(f"expected name=KEY in hexadecimal, got {text!r}") from error
        if not name:
            raise FormatError(f"expected name=KEY in hexadecimal, got {text!r}")
    return pairs


def _print_roster(roster: Roster) -> None:
    from rtc_flower.display import printable

    typer.echo(f"roster version {roster.version}")
    for member in roster.members:
        typer.echo(f"  {member.key.hex()}  {member.state.name.lower():7}  {printable(member.name)}")
