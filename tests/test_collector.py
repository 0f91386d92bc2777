"""No node, and no failure of the server, keeps the collector from the other replies."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from rtc_flower.simulator import InMemoryGrid, SimulatedNode
from rtc_flower.strategies.collector import Collector, Reply, ReplyKind

FAST = 0.005


def echo(message: Message, context: Context) -> Message:
    return Message(
        RecordDict({"out": ConfigRecord({"node": context.node_id, "data": b"vote"})}),
        reply_to=message,
    )


def node(**options: object) -> SimulatedNode:
    return SimulatedNode(echo, **options)  # type: ignore[arg-type]


def ask(node_id: int, *, ttl: float | None = None) -> Message:
    return Message(RecordDict(), node_id, "query.vote", ttl=ttl, group_id="1")


def ask_all(grid: InMemoryGrid) -> list[Message]:
    return [ask(node_id) for node_id in grid.get_node_ids()]


def take(collector: Collector, count: int, *, within: float = 10.0) -> list[Reply]:
    """Take exactly `count` replies."""
    end = time.monotonic() + within
    replies = list[Reply]()
    while len(replies) < count:
        reply = collector.reply(end - time.monotonic())
        assert reply is not None, f"{len(replies)} of {count} replies"
        replies.append(reply)
    return replies


def eventually(condition: Callable[[], bool], *, within: float = 5.0) -> bool:
    end = time.monotonic() + within
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def pulling_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("rtc-flower-collector")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterable[None]:
    yield
    assert eventually(lambda: not pulling_threads()), pulling_threads()
    assert [t for t in threading.enumerate() if not t.daemon] == [threading.main_thread()]


Pull = Callable[[], list[Message]]


class ScriptedGrid(InMemoryGrid):
    """Lets a test decide what a pull does; counts pulls per message."""

    def __init__(self, nodes: Iterable[SimulatedNode]) -> None:
        super().__init__(nodes)
        self.pulls: Counter[str] = Counter()
        self.script: Callable[[str, Pull], list[Message]] = lambda _, pull: pull()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        (message_id,) = message_ids
        self.pulls[message_id] += 1
        return self.script(message_id, lambda: InMemoryGrid.pull_messages(self, [message_id]))


def test_replies_carry_the_node_that_was_asked() -> None:
    with InMemoryGrid([node() for _ in range(5)]) as grid, Collector(grid, poll=FAST) as collector:
        sent = collector.send(ask_all(grid))
        replies = {reply.message_id: reply for reply in take(collector, 5)}
        assert set(replies) == set(sent)
        for message_id, node_id in zip(sent, grid.get_node_ids(), strict=True):
            reply = replies[message_id]
            assert reply.kind is ReplyKind.CONTENT
            assert reply.node_id == node_id
            assert reply.message is not None
            assert reply.message.content.config_records["out"]["node"] == node_id
        assert collector.outstanding == frozenset()


def test_one_stuck_node_delays_none_of_a_hundred_others() -> None:
    nodes = [node(stuck=600.0), *(node() for _ in range(100))]
    with InMemoryGrid(nodes) as grid, Collector(grid, poll=FAST, stuck_after=600.0) as collector:
        stuck, *others = collector.send(ask_all(grid))
        replies = take(collector, 100)
        assert {reply.message_id for reply in replies} == set(others)
        assert collector.outstanding == {stuck}


def test_more_stuck_nodes_than_workers_are_each_given_one_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = [*(node(stuck=600.0) for _ in range(10)), *(node() for _ in range(100))]
    with (
        InMemoryGrid(nodes) as grid,
        Collector(grid, workers=3, poll=FAST, stuck_after=0.05) as collector,
    ):
        sent = collector.send(ask_all(grid))
        assert {reply.message_id for reply in take(collector, 100)} == set(sent[10:])
        assert eventually(lambda: collector.reply(FAST) is None and len(pulling_threads()) == 13)
        assert collector.reply(0.2) is None
        assert len(pulling_threads()) == 13
        assert collector.outstanding == set(sent[:10])
        assert caplog.text.count("others are pulled without it") == 10


@pytest.mark.parametrize("forgotten", [False, True])
def test_what_a_stuck_pull_brings_is_handed_on_unless_it_was_forgotten(forgotten: bool) -> None:
    begun, upload = threading.Event(), threading.Event()
    with (
        ScriptedGrid([node(), node()]) as grid,
        Collector(grid, workers=1, poll=FAST, stuck_after=0.05) as collector,
    ):

        def script(message_id: str, pull: Pull) -> list[Message]:
            if message_id not in stuck:
                return pull()
            begun.set()
            upload.wait(10)
            return pull()

        stuck = set[str]()
        first, second = ask_all(grid)
        grid.script = lambda message_id, pull: []
        (held,) = collector.send([first])
        stuck.add(held)
        grid.script = script
        (honest,) = collector.send([second])
        assert [reply.message_id for reply in take(collector, 1)] == [honest]
        assert begun.wait(10)
        if forgotten:
            collector.forget(held)
        upload.set()
        if forgotten:
            assert collector.outstanding == frozenset()
            assert eventually(lambda: len(pulling_threads()) <= 1)
            assert collector.reply(0.0) is None
        else:
            assert [reply.message_id for reply in take(collector, 1)] == [held]


def test_a_message_that_was_never_sent_can_be_forgotten() -> None:
    with InMemoryGrid() as grid, Collector(grid) as collector:
        collector.forget("never sent")
        assert collector.outstanding == frozenset()


def test_rubbish_and_error_replies_are_handed_on_under_the_node_that_was_asked() -> None:
    nodes = [
        node(rubbish="empty"),
        node(rubbish="records"),
        node(rubbish="bytes"),
        node(rubbish="huge"),
        node(crash_after=0),
        node(crash_after=0, crash_code=5),
    ]
    with InMemoryGrid(nodes) as grid, Collector(grid, poll=FAST) as collector:
        order = dict(zip(collector.send(ask_all(grid)), range(6), strict=True))
        replies = sorted(take(collector, 6), key=lambda reply: order[reply.message_id])
        assert [r.kind for r in replies] == [ReplyKind.CONTENT] * 4 + [ReplyKind.ERROR] * 2
        assert [r.message_id for r in replies] == list(order)
        codes = [r.message.error.code for r in replies[4:] if r.message is not None]
        assert codes == [8, 5]
        # The SuperLink's own error comes from node 1 and still belongs to the node asked.
        gone = replies[5]
        assert gone.message is not None
        assert gone.message.metadata.src_node_id == 1
        assert gone.node_id not in (None, 1)


def test_a_forged_reply_counts_for_the_message_it_names_and_never_for_its_sender() -> None:
    nodes = [node(delay=600.0), node(forge=0)]
    with InMemoryGrid(nodes) as grid, Collector(grid, poll=FAST) as collector:
        victim, forger = grid.get_node_ids()
        to_victim, to_forger = collector.send(ask_all(grid))
        (reply,) = take(collector, 1)
        assert (reply.message_id, reply.node_id) == (to_victim, victim)
        assert reply.message is not None
        assert reply.message.content.config_records["out"]["node"] == forger
        assert collector.outstanding == {to_forger}


def test_a_message_that_expires_is_an_error_reply() -> None:
    with InMemoryGrid([node(silent=True)]) as grid, Collector(grid, poll=FAST) as collector:
        (node_id,) = grid.get_node_ids()
        collector.send([ask(node_id, ttl=0.05)])
        (reply,) = take(collector, 1)
        assert reply.kind is ReplyKind.ERROR
        assert reply.node_id == node_id
        assert reply.message is not None
        assert reply.message.error.code == 3


def test_a_rejected_message_is_reported_at_once() -> None:
    with InMemoryGrid([node(silent=True)]) as grid, Collector(grid, poll=FAST) as collector:
        ids = collector.send([ask(99), *ask_all(grid)])
        assert ids[0] == ""
        assert collector.reply(0.0) == Reply(ReplyKind.UNREACHABLE, "", 99, None)
        assert collector.outstanding == {ids[1]}


@pytest.mark.parametrize("left", [["second"], []])
def test_ids_are_matched_when_the_grid_leaves_rejected_messages_out(left: list[str]) -> None:
    class Omitting(InMemoryGrid):
        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            ids = super().push_messages(messages)
            return ids[1:] if left else []

    with Omitting([node(), node()]) as grid, Collector(grid, poll=FAST) as collector:
        ids = collector.send(ask_all(grid))
        assert [bool(i) for i in ids] == [False, bool(left)]
        kinds = Counter(reply.kind for reply in take(collector, 2))
        assert kinds[ReplyKind.UNREACHABLE] == 2 - len(left)


def test_duplicates_and_unknown_ids_are_reported_and_ignored() -> None:
    with ScriptedGrid([node()]) as grid, Collector(grid, poll=FAST) as collector:
        stranger = echo(ask(5), Context(1, 5, {}, RecordDict(), {}))
        stranger.metadata.__dict__["_reply_to_message_id"] = "never sent"

        def twice(_: str, pull: Pull) -> list[Message]:
            got = pull()
            return [stranger, *got, *got] if got else []

        grid.script = twice
        (sent,) = collector.send(ask_all(grid))
        replies = take(collector, 3)
        assert [r.kind for r in replies] == [
            ReplyKind.UNKNOWN,
            ReplyKind.CONTENT,
            ReplyKind.UNKNOWN,
        ]
        assert [r.message_id for r in replies] == ["never sent", sent, sent]
        assert [r.node_id is None for r in replies] == [True, False, True]
        assert collector.outstanding == frozenset()


@pytest.mark.parametrize("error", [ConnectionError("server gone"), SystemExit(1)])
def test_a_server_that_goes_away_and_comes_back(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    pulls = itertools.count()

    def script(_: str, pull: Pull) -> list[Message]:
        if next(pulls) < 6:
            raise error
        return pull()

    with ScriptedGrid([node() for _ in range(4)]) as grid:
        grid.script = script
        with Collector(grid, workers=2, poll=FAST) as collector:
            collector.send(ask_all(grid))
            replies = take(collector, 4)
    assert {r.kind for r in replies} == {ReplyKind.CONTENT}
    assert caplog.text.count(type(error).__name__) == 6


def test_messages_are_pulled_in_turn_and_not_too_often() -> None:
    with ScriptedGrid([node(silent=True) for _ in range(120)]) as grid:
        with Collector(grid, workers=4, poll=0.01) as collector:
            started = time.monotonic()
            sent = collector.send(ask_all(grid))
            assert eventually(lambda: sum(grid.pulls.copy().values()) >= 360, within=20.0)
        assert eventually(lambda: not pulling_threads())
        passed = time.monotonic() - started
    counts = [grid.pulls[message_id] for message_id in sent]
    assert max(counts) - min(counts) <= 2
    assert sum(counts) <= 4 * (passed / 0.01 + 2)


def test_two_hundred_nodes_need_no_more_threads_than_workers() -> None:
    nodes = [node(delay=0.2) for _ in range(200)]
    with InMemoryGrid(nodes) as grid, Collector(grid, poll=FAST) as collector:
        collector.send(ask_all(grid))
        assert len(pulling_threads()) == 8
        replies = take(collector, 200)
        assert {reply.node_id for reply in replies} == set(grid.get_node_ids())
        assert len(pulling_threads()) <= 8


def test_messages_sent_later_are_not_held_up_by_silent_ones() -> None:
    nodes = [node(silent=True) for _ in range(20)]
    with InMemoryGrid(nodes) as grid, Collector(grid, poll=FAST) as collector:
        collector.send(ask_all(grid))
        for _ in range(5):
            (later,) = collector.send([ask(grid.join(node()))])
            assert take(collector, 1)[0].message_id == later


def test_waiting_ends_at_the_timeout_and_at_once_when_nothing_is_outstanding() -> None:
    nodes = [node(silent=True), node(), node()]
    with InMemoryGrid(nodes) as grid, Collector(grid, poll=FAST) as collector:
        assert collector.reply(600.0) is None
        silent, *others = collector.send(ask_all(grid))
        first_two = itertools.islice(collector.replies(10.0), 2)
        assert {reply.message_id for reply in first_two} == set(others)
        assert list(collector.replies(0.05)) == []
        collector.forget(silent)
        assert list(collector.replies(600.0)) == []


def test_close_ends_the_threads_that_are_not_stuck_and_a_waiting_caller() -> None:
    with InMemoryGrid([node(stuck=600.0), node(silent=True)]) as grid:
        collector = Collector(grid, poll=FAST)
        collector.send(ask_all(grid))
        assert eventually(lambda: len(pulling_threads()) == 2)
        closing = threading.Timer(0.1, collector.close)
        closing.start()
        assert collector.reply(600.0) is None
        closing.join()
        assert eventually(lambda: len(pulling_threads()) <= 1)
        assert all(thread.daemon for thread in pulling_threads())
        with pytest.raises(RuntimeError, match="closed"):
            collector.send([])


def arrivals(seed: int) -> list[int | None]:
    """Order of the replies of slow, silent and honest nodes, on a clock that the test turns."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    nodes = [*(node() for _ in range(8)), node(silent=True), node(delay=500.0)]
    with InMemoryGrid(nodes, seed=seed, workers=1, clock=lambda: now[0]) as grid:
        ids = grid.get_node_ids()
        with Collector(grid, workers=0, clock=lambda: now[0], sleep=sleep) as collector:
            collector.send(ask_all(grid))
            order = [reply.node_id for reply in collector.replies(1000.0)]
            assert not pulling_threads()
        assert now[0] >= 1000.0
        return [None if i is None else ids.index(i) for i in order]


def test_without_workers_a_run_repeats_exactly_and_sleeps_on_the_clock_it_was_given() -> None:
    started = time.monotonic()
    assert arrivals(1) == arrivals(1)
    assert sorted(i for i in arrivals(1) if i is not None) == [*range(8), 9]
    assert len({tuple(arrivals(seed)) for seed in range(5)}) > 1
    assert time.monotonic() - started < 60.0


def test_without_workers_an_interrupt_reaches_the_caller() -> None:
    def interrupt(_: str, pull: Pull) -> list[Message]:
        raise KeyboardInterrupt

    with ScriptedGrid([node()]) as grid, Collector(grid, workers=0, poll=FAST) as collector:
        grid.script = interrupt
        collector.send(ask_all(grid))
        with pytest.raises(KeyboardInterrupt):
            collector.reply(1.0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"workers": -1}, "workers is -1"),
        ({"poll": 0.0}, "poll is 0.0"),
        ({"stuck_after": -1.0}, "stuck_after is -1.0"),
    ],
)
def test_bad_parameters_are_named(options: dict[str, float], match: str) -> None:
    with InMemoryGrid() as grid, pytest.raises(ValueError, match=match):
        Collector(grid, **options)  # type: ignore[arg-type]
