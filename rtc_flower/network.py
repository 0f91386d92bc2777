"""The fork rules of the paper's section 3 between peers, without anyone who orders (Fig. 3).

A model, not a transport: peers finish training at given times, publish blocks to everyone, and
blocks arrive after a delay. It shows what an ordering strategy removes: forks of one solution
that stay split, votes that are published again, and tips on which peers disagree.

Rules, for a peer that voted for a solution: its block follows the longest fork of that solution
that it knows, the first received among equals, or starts a fork. When a block of its solution
arrives whose fork is at least as long as its own longest and lacks its vote, it publishes again,
behind that block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

__all__ = ["Block", "Race", "gossip", "random_race"]

Delay = Callable[[int, int, float], float]


@dataclass(frozen=True, slots=True)
class Block:
    """A published vote.

    Attributes
    ----------
    solution : int
        Class voted for.
    node : int
        Peer that published it.
    time : float
        When.
    height : int
        Votes in its fork up to here, from 1.
    parent : Block or None
        Block that it follows; None starts a fork.
    voters : int
        Bit i is set when peer i has a vote in this fork up to here.
    """

    solution: int
    node: int
    time: float
    height: int
    parent: Block | None
    voters: int


@dataclass(frozen=True, slots=True)
class Race:
    """What happened until the last block had arrived everywhere.

    Attributes
    ----------
    blocks : tuple of Block
        In the order of publication.
    messages : int
        Blocks sent from one peer to another.
    split_time : float
        Time during which peers held different longest forks of the leading solution; having
        heard of none yet counts as different.
    agreed_at : float or None
        When all peers came to hold the same one for good; None if they never did.
    tips : tuple of (Block or None)
        Each peer's longest fork of the leading solution.
    supporters : int
        Peers that voted for the leading solution, the one with most voters.
    """

    blocks: tuple[Block, ...]
    messages: int
    split_time: float
    agreed_at: float | None
    tips: tuple[Block | None, ...]
    supporters: int

    @property
    def messages_per_vote(self) -> float:
        """Messages per peer that voted; an ordering server needs two, a ballot and a receipt."""
        return self.messages / len({block.node for block in self.blocks})


class _Peers:
    """State of all peers: the longest fork that each knows of each solution."""

    def __init__(self, solutions: Sequence[int], delay: Delay) -> None:
        self.solutions = solutions
        self.delay = delay
        self.leading = Counter(solutions).most_common(1)[0][0]
        self.best: list[dict[int, Block]] = [{} for _ in solutions]
        self.tips: Counter[int | None] = Counter({None: len(solutions)})
        self.blocks: list[Block] = []
        self.queue: list[tuple[float, int, int, Block | None]] = []
        self.voted: set[int] = set()
        self.messages = self.pushed = 0

    def schedule(self, time: float, node: int, block: Block | None) -> None:
        self.pushed += 1  # Ties in time are served in the order in which they arose.
        heappush(self.queue, (time, self.pushed, node, block))

    def hold(self, node: int, block: Block) -> None:
        """Adopt the block if its fork is longer than the longest known of that solution."""
        known = self.best[node].get(block.solution)
        if known is not None and known.height >= block.height:
            return
        self.best[node][block.solution] = block
        if block.solution == self.leading:
            self.tips[None if known is None else id(known)] -= 1
            self.tips[id(block)] += 1

    def publish(self, node: int, parent: Block | None, time: float) -> None:
        height, voters = (parent.height, parent.voters) if parent else (0, 0)
        solution = self.solutions[node]
        block = Block(solution, node, time, height + 1, parent, voters | 1 << node)
        self.blocks.append(block)
        self.voted.add(node)
        self.hold(node, block)
        for other in range(len(self.solutions)):
            if other != node:
                self.messages += 1
                self.schedule(time + self.delay(node, other, time), other, block)

    def receive(self, node: int, block: Block, time: float) -> None:
        own = self.best[node].get(block.solution)
        lacks = block.solution == self.solutions[node] and not block.voters >> node & 1
        again = node in self.voted and lacks and own is not None and block.height >= own.height
        self.hold(node, block)
        if again:
            self.publish(node, block, time)

    def agreed(self) -> bool:
        self.tips = +self.tips
        return len(self.tips) == 1


def gossip(solutions: Sequence[int], ready: Sequence[float], delay: Delay) -> Race:
    """Let peers vote by the fork rules of section 3 until no block is under way.

    Parameters
    ----------
    solutions : sequence of int
        Class that each peer votes for.
    ready : sequence of float
        When each peer finishes training.
    delay : callable
        Time that a block takes from a peer to another, given both and the time it is sent.

    Returns
    -------
    Race

    Raises
    ------
    ValueError
        If there are no peers, or `solutions` and `ready` differ in length.
    """
    if not solutions or len(solutions) != len(ready):
        raise ValueError(
            f"solutions and ready must have one entry per peer, got {len(solutions)}, {len(ready)}"
        )
    peers = _Peers(solutions, delay)
    for node, time in enumerate(ready):
        peers.schedule(time, node, None)
    split, now, agreed_at = 0.0, 0.0, None
    while peers.queue:
        time, _, node, block = heappop(peers.queue)
        if not peers.agreed():
            split += time - now
        now = time
        if block is None:
            peers.publish(node, peers.best[node].get(solutions[node]), now)
        else:
            peers.receive(node, block, now)
        if not peers.agreed():
            agreed_at = None
        elif agreed_at is None:
            agreed_at = now
    tips = tuple(best.get(peers.leading) for best in peers.best)
    supporters = sum(solution == peers.leading for solution in solutions)
    return Race(tuple(peers.blocks), peers.messages, split, agreed_at, tips, supporters)


def random_race(
    peers: int,
    seed: int,
    *,
    accuracy: float = 0.9,
    classes: int = 10,
    training: float = 10.0,
    latency: float = 0.5,
) -> Race:
    """One task among peers with random votes, training times and delays.

    Parameters
    ----------
    peers : int
        Peers, 1 or more.
    seed : int
        Seed of everything that is drawn.
    accuracy : float
        Probability that a peer votes for class 0; else one of the others.
    classes : int
        Classes, 2 or more.
    training : float
        Peers finish uniformly within this time.
    latency : float
        Mean of the exponential delay of a block to each peer, in the same unit.

    Returns
    -------
    Race

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    if peers < 1 or classes < 2 or not 0 <= accuracy <= 1 or training < 0 or latency < 0:
        raise ValueError(
            "peers >= 1, classes >= 2, accuracy in [0, 1], training and latency >= 0, got "
            f"{peers}, {classes}, {accuracy}, {training}, {latency}"
        )
    rng = np.random.default_rng(seed)
    wrong = rng.integers(1, classes, peers)
    solutions = np.where(rng.random(peers) < accuracy, 0, wrong).tolist()
    ready = (training * rng.random(peers)).tolist()
    return gossip(solutions, ready, lambda *_: float(rng.exponential(latency)))
