"""The ClientApp of a node: configuration, and messages that are none of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from populations import contract, run, task, truthful

from rtc_flower.clients.app import make_client_app, state_directory
from rtc_flower.clients.contract import Contract
from rtc_flower.clients.voter import Voter
from rtc_flower.errors import DataError
from rtc_flower.keys import SigningKey
from rtc_flower.simulator import InMemoryGrid, SimulatedNode
from rtc_flower.wire import RECORD


def context(node: dict[str, Any], run: dict[str, Any] | None = None) -> Context:
    return Context(1, 77, node, RecordDict(), run or {})


def test_the_state_directory_is_the_nodes_own() -> None:
    assert state_directory(context({"state-dir": "/a"}, {"state-dir": "/b"})) == Path("/a")
    shared = {"state-dir": "/b"}
    assert state_directory(context({"partition-id": 3}, shared)) == Path("/b/nodes/3")
    assert state_directory(context({}, shared)) == Path("/b/nodes/77")


def test_a_state_directory_is_needed_and_absolute() -> None:
    with pytest.raises(DataError, match="no state-dir: start the SuperNode with --node-config"):
        state_directory(context({"partition-id": 3}))
    with pytest.raises(DataError, match="must be an absolute path, got 'here'"):
        state_directory(context({"state-dir": "here"}))


def test_a_state_directory_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(DataError, match=f"state-dir {path}: expected a folder"):
            Voter(path, name="node")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_factory_is_called_for_a_task_and_not_for_a_hello(tmp_path: Path) -> None:
    made: list[object] = []

    def factory(context: Context) -> Contract:
        made.append(context.node_config["partition-id"])
        return contract(lambda X: X[:, 0])

    counted = SimulatedNode(make_client_app(factory))
    # The second is in the roster before it is asked: two hellos, one task each.
    result = run([task(), task(first=60)], [counted, truthful()], tmp_path, rule="all")
    assert made == [0, 0]
    assert all(decided.absent == {} for decided in result.tasks)


def test_nodes_are_called_by_their_names(tmp_path: Path) -> None:
    nodes = [truthful(node_config={"name": name}) for name in ("clinic", "x" * 80)]
    result = run([task()], nodes, tmp_path, rule="all")
    assert set(result.tasks[0].ballots) == {"clinic-0", "x" * 40}


def test_a_node_that_wants_another_server_takes_no_part(tmp_path: Path) -> None:
    wanted = SigningKey.generate().public.hex()
    nodes = [truthful(), truthful(node_config={"server-key": wanted})]
    result = run([task()], nodes, tmp_path, rule="all", min_nodes=1)
    assert set(result.tasks[0].ballots) == {"node-0"}


@pytest.mark.parametrize("action", ["query.hello", "train"])
@pytest.mark.parametrize("rubbish", [{}, {"challenge": b""}, {"ballot": 7}])
def test_messages_that_are_none_of_ours_are_errors(
    tmp_path: Path, action: str, rubbish: dict[str, Any]
) -> None:
    node = truthful(node_config={"state-dir": str(tmp_path)})
    with InMemoryGrid([node], workers=1) as grid:
        (node_id,) = grid.get_node_ids()
        contents = [RecordDict(), RecordDict({RECORD: ConfigRecord(rubbish)})]
        sent = [Message(content, node_id, action) for content in contents]
        replies = grid.send_and_receive(sent, timeout=5)
    assert [reply.error.code for reply in replies] == [2, 2]
    assert all("FormatError" in str(reply.error.reason) for reply in replies)
