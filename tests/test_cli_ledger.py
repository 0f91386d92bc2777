"""The commands around a ledger: what they print, what they write, how they exit."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import cast, post, tamper, voter
from test_receipts import kept

from rtc_flower.admin import open_state
from rtc_flower.cli import main
from rtc_flower.display import printable
from rtc_flower.entries import AbsenceReason

KEYS = [voter(number).public.hex() for number in range(3)]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: exit code, output, errors."""

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["rtc-flower", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        code = ended.value.code
        assert isinstance(code, int | None)
        return code or 0, said.out, said.err

    return command


@pytest.fixture
def state(tmp_path: Path, run: Run) -> Path:
    """A server's state with one closed task, and the receipt of voter 0."""
    path = tmp_path / "state"
    assert run("init", path)[0] == 0
    members = [f"node {i}={voter(i).public.hex()}" for i in range(3)]
    code, out, _ = run("roster", "enrol", path, *members)
    assert (code, out.splitlines()[0]) == (0, "roster version 1")
    with open_state(path) as ledger:
        post(ledger, 3)
        for number in range(2):
            cast(ledger, voter(number), (0, 1, 2))
        (tmp_path / "receipt").write_text(kept(ledger, 0).to_json())
    return path


def test_a_receipt_is_read_and_found_in_its_ledger(state: Path, tmp_path: Path, run: Run) -> None:
    ledger, receipt = state / "ledger.db", tmp_path / "receipt"
    code, out, _ = run("receipt", receipt)
    assert code == 0
    assert f"voter: {voter(0).public.hex()}" in out
    assert "in_ledger: not checked" in out
    code, out, _ = run("receipt", receipt, "--ledger", ledger, "--json")
    assert (code, json.loads(out)["in_ledger"]) == (0, "yes")
    code, out, _ = run("verify", ledger, "--receipt", receipt, "--receipt", receipt)
    assert code == 0
    assert "V13  ok" in out
    code, out, _ = run("verify", ledger)
    assert code == 0
    assert "V13  not checked" in out

    run("init", tmp_path / "other")
    code, out, _ = run("verify", tmp_path / "other" / "ledger.db", "--receipt", receipt, "--json")
    assert code == 1
    assert json.loads(out)["verify"].startswith(f"V13 bad: {receipt}: ballot of voter")
    code, _, err = run("receipt", receipt, "--ledger", tmp_path / "other" / "ledger.db")
    assert code == 1
    assert "V13: " in err
    assert "the receipt is of another ledger" in err


def test_receipts_are_each_checked_and_the_worst_is_the_exit_code(
    state: Path, tmp_path: Path, run: Run
) -> None:
    good, newer, bad = (tmp_path / name for name in ("receipt", "newer", "bad"))
    newer.write_text(good.read_text().replace("receipt 1", "receipt 2"))
    bad.write_text("rubbish")
    for files, expected in (
        ((good, good), 0), ((good, newer), 2), ((newer, bad, good), 1), ((good, state / "no"), 1)
    ):  # fmt: skip
        code, out, _ = run("receipt", *files, "--ledger", state / "ledger.db", "--json")
        assert (code, [r["file"] for r in json.loads(out)]) == (expected, [str(f) for f in files])
        assert run("receipt", *files)[0] == expected
    verdicts = [r["receipt"] for r in json.loads(run("receipt", newer, bad, good, "--json")[1])]
    assert verdicts == ["not checked", "bad", "ok"]
    single = json.loads(run("receipt", good, "--json")[1])
    assert {"file": str(good), **single} == json.loads(run("receipt", good, bad, "--json")[1])[0]
    assert f"V13: {bad}: expected a receipt" in run("receipt", bad)[2]
    code, out, err = run("receipt", good, good, "--ledger", tmp_path / "none")
    assert (code, out) == (1, "")  # the ledger's fault, not the receipts'
    assert "none: expected a ledger file" in err


def test_verify_reports_everything_whatever_was_brought(
    state: Path, tmp_path: Path, run: Run
) -> None:
    ledger, bad = state / "ledger.db", tmp_path / "bad"
    note, text = ((p.read_bytes()) for p in (state / "HEAD", tmp_path / "receipt"))
    for option, step, content, verdict in (
        ("--checkpoint", "V11", note, "ok"),
        ("--checkpoint", "V11", note.replace(b"\n", b"\r\n"), "bad"),
        ("--checkpoint", "V11", note + "\u2014 node \ufffd\n".encode(), "ok"),
        ("--checkpoint", "V11", note + "\u2014 node ".encode() + b"\xff\n", "bad"),
        ("--checkpoint", "V11", b"", "bad"),
        ("--receipt", "V13", text, "ok"),
        ("--receipt", "V13", b"", "bad"),
        ("--receipt", "V13", b"\xff\xfe", "bad"),
        ("--receipt", "V13", text[:-9], "bad"),
        ("--receipt", "V13", text.replace(b"receipt 1", b"receipt 2"), "not checked"),
    ):
        bad.write_bytes(content)
        code, out, _ = run("verify", ledger, option, bad, "--json")
        verdicts = {s["step"]: s["verdict"] for s in json.loads(out)["steps"]}
        expected = {"ok": 0, "bad": 1, "not checked": 2}[verdict]
        assert (code, verdicts[step]) == (expected, verdict), content
        assert {verdicts[f"V{i}"] for i in (*range(1, 11), 12)} == {"ok"}


def test_bad_files_end_with_a_named_error(state: Path, tmp_path: Path, run: Run) -> None:
    receipt = tmp_path / "receipt"
    text = receipt.read_text()
    bad = tmp_path / "bad"
    for content in (b"", b"\xff\xfe", text[:-9].encode(), (text + "x").encode(), b"[" * 99_999):
        bad.write_bytes(content)
        commands: list[tuple[object, ...]] = [
            ("receipt", bad),
            ("compare", "--proof", bad),
            ("roster", "sign", bad, "--key", state / "server.key", "-o", tmp_path / "out"),
            ("roster", "apply", state, bad),
            ("restore", bad, tmp_path / "restored.db"),
            ("repair", bad),
            ("backup", bad, tmp_path / "copy.db"),
            ("init", tmp_path / "new", "--continues", bad),
        ]
        for words in commands:
            code, _, err = run(*words)
            assert (code, err[:7]) == (1, "error: "), words
            assert str(bad) in err, words
            assert words[0] != "init" or f"{bad}: expected a" in err
    for kind, words in (
        ("receipt", ("receipt", bad)),
        ("receipt", ("compare", state / "HEAD", state / "HEAD", "--identity", bad)),
        ("proof of two histories", ("compare", "--proof", bad)),
        ("signed roster", ("roster", "apply", state, bad)),
        ("roster request", ("roster", "sign", bad, "--key", state / "server.key", "-o", bad)),
    ):
        bad.write_text(f'{{"format": "rtc-flower {kind} 2"}}')
        code, _, err = run(*words)
        assert code == 2, words
        assert f"{bad}: a {kind} of version 2" in err
        assert err.count("Install a newer rtc-flower") == 1
    commands = [("roster", "revoke", tmp_path / "no", "a"),
                  ("roster", "enrol", state, "a=xy"), ("roster", "enrol", state, "=00"),
                  ("rotate-server-key", tmp_path / "no"), ("keygen", bad)]  # fmt: skip
    for words in commands:
        code, _, err = run(*words)
        assert (code, err[:7]) == (1, "error: "), words


def test_compare_accuses_nobody_of_what_it_cannot_read(
    state: Path, tmp_path: Path, run: Run
) -> None:
    """Exit code 1 says that a server signed two histories: a mistyped path must not."""
    ledger, head, bad = state / "ledger.db", state / "HEAD", tmp_path / "bad"
    note, half = head.read_bytes(), ledger.read_bytes()[:5000]
    receipt = (tmp_path / "receipt").read_bytes()
    for content in (None, b"", b"\xff\xfe", b"rubbish", note[:80], receipt, half, b"[" * 99_999):
        if content is not None:
            bad.write_bytes(content)
        for words in ((bad, ledger), (head, bad), (bad, bad)):
            code, out, err = run("compare", *words)
            assert (code, out, err[:7]) == (2, "", "error: "), (content, words)
            assert str(bad) in err
        if content != receipt:
            assert run("compare", head, head, "--identity", bad)[0] == 2
    for more in ((), (head,), (head, head, "--server-key", "00"), (head, head, "--proof", head)):
        assert run("compare", *more)[0] == 2
    assert run("compare", "--proof", tmp_path / "none")[0] == 2
    assert run("compare", "--proof", head, "--server-key", "zz")[0] == 2
    unseen = tmp_path / ("x" * 300)  # the system refuses even to look, as in a closed folder
    for closed in ((unseen, ledger), (head, unseen), (head, head, "--identity", unseen)):
        assert run("compare", *closed)[0] == 2
    assert run("compare", "--proof", head)[0] == 1  # read, and no proof
    code, _, err = run("compare", state, ledger)
    assert code == 2
    assert f"name {ledger}" in err


def test_a_pipe_or_a_device_is_refused_and_not_waited_for(
    state: Path, tmp_path: Path, run: Run
) -> None:
    ledger, note = state / "ledger.db", state / "HEAD"
    pipe, endless = tmp_path / "pipe", tmp_path / "endless"
    os.mkfifo(pipe)
    endless.symlink_to("/dev/zero")
    for bad in (pipe, endless):
        for words, expected in (
            (("verify", ledger, "--checkpoint", bad), 1),
            (("verify", ledger, "--receipt", bad), 1),
            (("receipt", bad), 1),
            (("compare", bad, ledger), 2),
            (("compare", note, note, "--identity", bad), 2),
            (("compare", "--proof", bad), 2),
            (("roster", "apply", state, bad), 1),
            (("init", tmp_path / "new", "--continues", bad), 1),
        ):
            code, _, err = run(*words)
            assert (code, f"{bad}: expected a file, found a pipe" in err) == (expected, True), words


def test_a_link_to_itself_is_no_traceback(state: Path, tmp_path: Path, run: Run) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for words in (
        ("repair", loop), ("rotate-server-key", loop), ("abort", loop), ("init", loop),
        ("node-key", loop), ("verify", loop),
    ):  # fmt: skip
        code, out, err = run(*words)
        assert (code, str(loop) in " ".join((out + err).split())) == (1, True), words
    code, _, err = run("rotate-server-key", state, "--head-file", loop)
    assert (code, "loop: cannot be written" in err) == (1, True)


def test_what_is_no_file_is_not_replaced_by_one(state: Path, tmp_path: Path, run: Run) -> None:
    """Who may write /dev would lose /dev/null there."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for target in (pipe, link, tmp_path):
        for words in (
            ("export", state / "ledger.db", "--output", target),
            ("rotate-server-key", state, "--head-file", target),
        ):
            code, _, err = run(*words)
            assert (code, err.count("error: ")) == (1, 1), words
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert run("verify", state / "ledger.db", "--checkpoint", state / "HEAD")[0] == 0


def test_twins_are_compared_and_the_proof_is_checked_elsewhere(
    state: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(state, twin)
    for number, path in enumerate((state, twin)):
        with open_state(path) as opened:
            post(opened, 2 + number)
    ledger, other = state / "ledger.db", twin / "ledger.db"
    assert run("compare", ledger, state / "HEAD")[0] == 0
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("compare", ledger, other, "--json")
    said = json.loads(out)
    assert (code, said["compare"], said["signatures"]) == (1, "inconsistent", "ok")
    code, out, _ = run("compare", "--proof", tmp_path / said["proof"])
    assert code == 0
    assert "proof: holds" in out

    code, out, _ = run("compare", state / "HEAD", twin / "HEAD", "-o", tmp_path / "proof")
    assert (code, out[:19]) == (2, "compare: cannot say")
    assert run("compare", "--proof", tmp_path / "proof")[0] == 2  # nobody knows whose those are
    with open_state(state) as opened:
        key = opened.key.public.hex()
    assert run("compare", "--proof", tmp_path / "proof", "--server-key", key)[0] == 0
    assert run("compare", "--proof", tmp_path / "proof", "--server-key", voter(0).public.hex())[
        0
    ] == (1)
    assert run("compare", "--proof", tmp_path / "proof", "--server-key", "00" * 32)[0] == 2
    known = ("--proof", tmp_path / "proof", "--identity", ledger)
    assert run("compare", *known)[0] == 0
    assert run("compare", *known, "--server-key", voter(0).public.hex())[0] == 1
    assert run("compare", *known[:3], tmp_path / "nowhere.db")[0] == 2
    assert run("init", tmp_path / "foreign")[0] == 0
    assert run("compare", *known[:3], tmp_path / "foreign" / "ledger.db")[0] == 1
    assert run("compare", ledger, ledger, "--server-key", key)[0] == 0  # whose it is
    for side in (ledger, state / "HEAD"):
        brought = ("--identity", ledger, "--server-key")
        assert run("compare", side, ledger, *brought, key)[0] == 0
        assert run("compare", side, ledger, *brought, voter(0).public.hex())[0] == 2
    assert run("compare", ledger, ledger, "--server-key", voter(0).public.hex())[0] == 2
    shutil.copy(ledger, tmp_path / "short.db")
    with open_state(state) as opened:
        opened.abort()
    assert run("compare", state / "HEAD", tmp_path / "short.db")[0] == 2


def test_a_folder_is_not_taken_for_the_name_of_a_new_file(
    state: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`backup ledger.db .` as one types `cp`; an empty variable is `.`, too."""
    ledger, votes = state / "ledger.db", tmp_path / "votes.csv"
    votes.write_text("node,sample,class\na,0,x\nb,0,y\n")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for target in (".", "/", "", tmp_path):
        for words in (
            ("backup", ledger, target),
            ("restore", ledger, target),
            ("keygen", target),
            ("replay", votes, "--ledger", target),
        ):
            code, _, err = run(*words)
            assert (code, err[:7]) == (1, "error: "), words
    assert f"name {tmp_path / 'ledger.db'}" in run("backup", ledger, tmp_path)[2]
    assert sorted(tmp_path.iterdir()) == before


def test_two_histories_are_said_where_the_proof_cannot_be_written(
    state: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copytree(state, tmp_path / "twin")
    for folder, number in ((state, 7), (tmp_path / "twin", 8)):
        run("roster", "enrol", folder, f"new={voter(number).public.hex()}")
    ledger, twin = state / "ledger.db", tmp_path / "twin" / "ledger.db"
    for target in (tmp_path / "nowhere" / "proof", twin):
        code, out, _ = run("compare", ledger, twin, "-o", target)
        assert code == 1
        assert "compare: inconsistent" in out
        assert f"proof: not written: --output {target}: " in out
        assert "name a file with --output and run again" in out
    assert run("verify", twin)[0] == 0


def test_verify_cannot_say_what_it_may_not_look_at(
    state: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    code, out, _ = run("verify", state / "ledger.db")
    assert code == 2
    assert "not checked: [Errno 13] Permission denied" in out


def test_keys_over_time(tmp_path: Path, run: Run) -> None:
    code, admin, _ = run("keygen", tmp_path / "admin.key")
    assert code == 0
    state = tmp_path / "state"
    assert run("init", state, "--admin-key", admin.strip())[0] == 0
    keys = [run("node-key", tmp_path / name)[1].strip() for name in ("a", "b")]
    assert run("node-key", tmp_path / "a")[1].strip() == keys[0]
    request, signed = tmp_path / "request", tmp_path / "signed"

    def sign(*change: str) -> tuple[int, str, str]:
        assert run("roster", "request", state / "ledger.db", "-o", request)[0] == 0
        key = tmp_path / "admin.key"
        return run("roster", "sign", request, "--key", key, "-o", signed, *change)

    assert sign("--enrol", f"a={keys[0]}")[0] == 0
    assert run("roster", "apply", state, signed)[0] == 0
    code, _, err = run("roster", "apply", state, signed)
    assert code == 1
    assert "R2: expected roster version 2, got 1: it was applied already" in err
    assert "run 'roster request' and 'roster sign' again" in err
    twice = ("--enrol", f"b={keys[1]}", "--enrol", f"c={keys[1]}")
    assert f"expected every key once, got '{keys[1]}' twice" in sign(*twice)[2]
    assert "expected every active name once, got 'a' twice" in sign("--enrol", f"a={keys[1]}")[2]
    folder = f"{state}: expected a ledger file, found a folder; name {state / 'ledger.db'}"
    for words in (("list", state), ("request", state, "-o", request)):
        assert folder in run("roster", *words)[2]
    code, _, err = run("roster", "apply", state / "ledger.db", signed)
    assert code == 1
    assert f"expected the server's folder, found a file; name {state}" in err
    assert sign("--rotate", f"a={keys[1]}")[0] == 0
    assert run("roster", "apply", state, signed)[0] == 0
    assert sign("--revoke", "nobody")[0] == 1
    listed = json.loads(run("roster", "list", state / "ledger.db", "--json")[1])
    assert [(m["key"], m["name"], m["state"]) for m in listed] == [
        (keys[0], "a", "revoked"),
        (keys[1], "a", "active"),
    ]
    code, _, err = run("roster", "enrol", state, f"b={keys[0]}")
    assert code == 1
    assert "only the admin key" in err
    assert run("rotate-server-key", state)[0] == 0
    assert run("verify", state / "ledger.db")[0] == 0
    (tmp_path / "admin.key").chmod(0o644)
    code, _, err = sign("--revoke", "a")
    assert code == 1
    assert "0600" in err


def test_backup_restore_repair_and_continue(state: Path, tmp_path: Path, run: Run) -> None:
    ledger, copy = state / "ledger.db", tmp_path / "copy.db"
    code, out, _ = run("backup", ledger, copy, "--json")
    assert code == 0
    (tmp_path / "note").write_text(json.loads(out)["checkpoint"])
    assert "keep server.key apart" in json.loads(out)["server_key"]
    with open_state(state) as opened:
        post(opened, 3)
    ledger.rename(tmp_path / "damaged.db")
    code, _, err = run("restore", copy, ledger)
    assert code == 1
    assert "2 entries behind" in err
    code, out, _ = run("restore", copy, tmp_path / "new place" / "ledger.db")
    assert out.count("not checked") == 1
    assert f"server_key: not there: bring {tmp_path / 'new place' / 'server.key'} back" in out
    code, _, err = run("abort", tmp_path / "new place")
    assert code == 1
    assert "server.key: expected the server's key, found none; it is in no backup" in err
    assert "init --continues" in err

    code, out, err = run("init", tmp_path / "new", "--continues", state / "HEAD", "--no-blocks")
    assert code == 0
    assert err.startswith("note: enrolment is open here")
    with open_state(tmp_path / "new") as opened:
        genesis = opened.replay.genesis
    assert genesis is not None
    assert (
        genesis.previous_size
        == json.loads(run("verify", tmp_path / "damaged.db", "--json")[1])["entries"]
    )
    code, out, _ = run("repair", copy, "--no-blocks")
    assert code == 0
    assert "block rows are not kept" in out
    assert run("repair", copy, "--blocks")[0] == 0
    assert run("verify", copy, "--checkpoint", tmp_path / "note")[0] == 0
    assert "0 of 3" in run("show", copy)[1]


MARKED = ("[/bold]", "[red]honest", "\x1b[2J\x1b[1;1Hverify: ok", "\u202egnoc")


@pytest.mark.parametrize("name", MARKED)
def test_a_name_is_shown_as_it_is_and_commands_no_terminal(
    name: str, tmp_path: Path, run: Run
) -> None:
    """Whoever signs a roster, or votes, chooses texts that others read in a terminal."""
    path = tmp_path / "state"
    run("init", path)
    code, out, _ = run("roster", "enrol", path, *(f"{name}{i}={KEYS[i]}" for i in range(2)))
    assert code == 0
    with open_state(path) as ledger:
        post(ledger, 2)
        cast(ledger, voter(0), (0, 1, 2))
        ledger.absent(voter(1).public, AbsenceReason.ERROR)
    commands = (("roster", "list"), ("show", "--task", 1), ("show", "--sample", 0))
    for command in commands:
        code, said, _ = run(*command, path / "ledger.db")
        assert code == 0
        out += said
    assert out.count(printable(name)) >= 5
    assert all(c.isprintable() for line in out.split("\n") for c in line)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM entry WHERE idx > 1",
        "DELETE FROM decision",
        "UPDATE decision SET how = 'odd'",
        "UPDATE entry SET leaf = x'00' WHERE idx = 2",
        "ALTER TABLE entry RENAME TO old; CREATE TABLE entry(idx, leaf);"
        "INSERT INTO entry SELECT idx, NULL FROM old",
        "ALTER TABLE task RENAME TO old; CREATE TABLE task AS SELECT * FROM old;"
        "UPDATE task SET n = 'a', first_row = 'b'",
    ],
)
def test_a_damaged_ledger_is_named_by_what_reads_it(
    damage: str, state: Path, tmp_path: Path, run: Run
) -> None:
    ledger = state / "ledger.db"
    tamper(ledger, *damage.split(";"))
    assert run("verify", ledger)[0] == 1
    readers: list[tuple[object, ...]] = [("show",), ("show", "--task", 1), ("show", "--sample", 0)]
    readers += [("export",), ("export", "--json"), ("roster", "list")]
    readers += [("roster", "request", "-o", tmp_path / "request")]
    for words in readers:
        code, _, err = run(*words, ledger)
        assert (code, err[:7]) in ((0, ""), (1, "error: ")), words


def test_what_cannot_be_a_folder_is_named(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "file"
    file.touch()
    for words in (("init", file), ("init", file / "state"), ("node-key", file)):
        code, _, err = run(*words)
        assert (code, err[:7]) == (1, "error: "), words
        assert str(file) in err


def test_an_old_head_that_genesis_cannot_hold_is_refused(
    state: Path, tmp_path: Path, run: Run
) -> None:
    lines = (state / "HEAD").read_text().split("\n")
    for size in (0, 2**64):
        (tmp_path / "note").write_text("\n".join([lines[0], str(size), *lines[2:]]))
        code, _, err = run("init", tmp_path / "new", "--continues", tmp_path / "note")
        assert (code, err[:7]) == (1, "error: ")
        assert ("canonical" if size else "at least 1 entry") in err
    assert not (tmp_path / "new").exists()


def test_a_ledger_is_not_made_for_a_head_that_cannot_be_written(tmp_path: Path, run: Run) -> None:
    words = ("init", tmp_path / "state", "--head-file", tmp_path / "no disk" / "HEAD")
    code, _, err = run(*words)
    assert (code, "expected a file in a folder that exists" in err) == (1, True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "no disk").mkdir()
    for folder in (tmp_path, ""):
        code, _, err = run(*words[:3], folder)
        assert (code, "expected a file in a folder that exists" in err) == (1, True)
        assert not (tmp_path / "state").exists()
    assert run(*words)[0] == 0
    (tmp_path / "state" / "ledger.db").unlink()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "HEAD").write_text("one")
    for again in (("init", tmp_path / "state", *words[2:]), ("init", tmp_path / "new")):
        code, _, err = run(*again)
        assert (code, "rtc-flower restore" in err, "--continues" in err) == (1, True, True)
    assert os.listdir(tmp_path / "new") == ["HEAD"]


def test_a_head_file_that_is_not_there_is_said(state: Path, tmp_path: Path, run: Run) -> None:
    """It may be the first use of a new disk; or a typing error, and the ledger an old copy."""
    head = tmp_path / "nohead"
    code, _, err = run("rotate-server-key", state, "--head-file", head)
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(f"head: not checked: {head} is not there")
    assert run("rotate-server-key", state, "--head-file", head)[::2] == (0, "")
    (state / "HEAD").unlink()
    assert "HEAD is not there" in run("roster", "revoke", state, "node 0")[2]
    (state / "HEAD").write_text("")  # a power cut
    assert "HEAD is empty" in run("roster", "revoke", state, "node 1")[2]
    assert run("roster", "revoke", state, "node 2")[2] == ""
    (tmp_path / "HEAD").write_text("")
    out = run("restore", state / "ledger.db", tmp_path / "copy.db")[1]
    assert "head: not checked: " in out
    assert "HEAD is empty" in out
    assert "elsewhere is not there" in run("abort", state, "--head-file", tmp_path / "elsewhere")[2]


def test_an_abort_knows_the_head_on_another_disk(state: Path, tmp_path: Path, run: Run) -> None:
    head = tmp_path / "elsewhere"
    with open_state(state, head_file=head) as ledger:
        post(ledger, 2)
        old = tmp_path / "old.db"
        shutil.copy(state / "ledger.db", old)
        cast(ledger, voter(0), (0, 1, 2))
    shutil.copy(old, state / "ledger.db")
    (state / "HEAD").unlink()
    code, _, err = run("abort", state, "--head-file", head)
    assert code == 1
    assert "1 entries behind" in err


def test_an_output_replaces_nothing_that_nobody_can_make_again(
    state: Path, tmp_path: Path, run: Run
) -> None:
    """`export LEDGER --output LEDGER` left a CSV file, and `sign -o KEY` no admin key."""
    ledger, request, key = state / "ledger.db", tmp_path / "request", tmp_path / "admin.pem"
    public = run("keygen", key)[1].strip()
    run("init", tmp_path / "governed", "--admin-key", public)
    governed = tmp_path / "governed" / "ledger.db"
    run("roster", "request", governed, "-o", request)
    votes, truth = tmp_path / "votes.csv", tmp_path / "truth.csv"
    votes.write_text("node,sample,class\na,0,x\nb,0,y\n")
    truth.write_text("sample,class\n0,x\n")
    kept = (ledger, governed, key, state / "server.key", state / "HEAD", request, votes, truth)
    before = {path: path.read_bytes() for path in kept}
    signed = ("roster", "sign", request, "--key", key, "--enrol", f"a={KEYS[0]}", "-o")
    replayed = ("replay", votes, "--truth", truth, "--ledger", tmp_path / "new" / "l.db", "--json")
    for words, targets in (
        (("export", ledger, "--task", 1, "--output"), kept[:5]),
        (("roster", "request", governed, "-o"), kept[:5]),
        (signed, kept[:6]),
        (replayed, (*kept[:5], votes, truth)),
        (("demo", "--json"), kept[:5]),
    ):
        for target in targets:
            code, _, err = run(*words, target)
            assert code == 1, (words, target)
            assert f"{target}: " in err
            assert "name another file" in err
    assert {path: path.read_bytes() for path in kept} == before
    assert not (tmp_path / "new").exists()
    for _ in range(2):  # what a command wrote, it may write again
        assert run("export", ledger, "--task", 1, "--output", tmp_path / "out.csv")[0] == 0
        assert run(*signed, tmp_path / "roster")[0] == 0


def test_replay_refuses_its_json_file_before_the_work(tmp_path: Path, run: Run) -> None:
    votes = tmp_path / "votes.csv"
    votes.write_text("node,sample,class\na,0,x\nb,0,y\n")
    nowhere = tmp_path / "nowhere" / "figures"
    code, _, err = run("replay", votes, "--ledger", tmp_path / "r" / "l.db", "--json", nowhere)
    assert code == 1
    assert f"--json {nowhere}: expected a file in a folder that exists" in err
    assert not (tmp_path / "r").exists()


def spoken(*words: object, encoding: str = "ascii") -> tuple[int, str]:
    """Exit code and output of the command in a process without a locale that knows UTF-8."""
    env = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    ended = subprocess.run(
        [sys.executable, "-m", "rtc_flower", *map(str, words)],
        env={**env, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    return ended.returncode, (ended.stdout + ended.stderr).decode("ascii", "backslashreplace")


def test_files_are_in_utf_8_whatever_the_locale_is(state: Path, tmp_path: Path) -> None:
    """A dash in the checkpoint's signature line was a traceback behind an append."""
    code, said = spoken("init", tmp_path / "new")
    assert (code, "Traceback" in said) == (0, False)
    members = [f"n={voter(7).public.hex()}"]
    assert spoken("roster", "enrol", tmp_path / "new", *members)[0] == 0
    assert spoken("rotate-server-key", state)[0] == 0
    for folder in (state, tmp_path / "new"):
        head = folder / "HEAD"
        assert "\n— " in head.read_text(encoding="utf-8")
        assert spoken("verify", folder / "ledger.db", "--checkpoint", head)[0] == 0
    code, said = spoken("show", state / "ledger.db", "--task", 1, "--sample", 0)
    assert code == 0  # the ledger was said not to fit itself
    assert "TASK " in said


def test_a_name_that_is_no_utf_8_is_opened_and_printed(state: Path, tmp_path: Path) -> None:
    """Verify called an honest ledger bad, and others ended in a traceback."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xff"))
    shutil.copytree(state, folder)
    for words in (
        ("verify", folder / "ledger.db"),
        ("show", folder / "ledger.db"),
        ("rotate-server-key", folder),
        ("repair", folder / "ledger.db"),
        ("backup", folder / "ledger.db", folder / "copy"),
        ("restore", folder / "copy", folder / "again"),
        ("init", folder / "new"),
    ):
        code, said = spoken(*words, encoding="utf-8")
        assert (code, "Traceback" in said) == (0, False), (words, said)


def test_an_output_that_cannot_be_written_changes_no_verdict(state: Path, tmp_path: Path) -> None:
    """A full disk behind `verify >` made exit code 1 of a good ledger."""
    ledger, bad = state / "ledger.db", tmp_path / "bad.db"
    shutil.copy(ledger, bad)
    tamper(bad, "DELETE FROM checkpoint")
    shell = f"{shlex.quote(sys.executable)} -m rtc_flower"
    for words, code in (
        (f"verify {ledger} >/dev/full", 2),
        (f"verify {ledger} --json >/dev/full", 2),
        (f"verify {bad} >/dev/full", 1),
        (f"compare {state / 'HEAD'} {ledger} >/dev/full", 2),
        (f"export {ledger} --task 1 >&-", 0),
        (f"verify {ledger} >&-", 0),
        (f"verify {ledger} | false; exit ${{PIPESTATUS[0]}}", 2),
        (f"compare {state / 'HEAD'} {ledger} | false; exit ${{PIPESTATUS[0]}}", 2),
    ):
        ended = subprocess.run(
            ["bash", "-c", f"{shell} {words}"], capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, (words, ended.stderr)
        assert "Traceback" not in ended.stderr
        assert ("error: standard output: No space left" in ended.stderr) == ("full" in words)
