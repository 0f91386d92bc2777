"""The forks of one task: blocks, tips and counts, minted a ballot at a time.

Votes for one class of one sample chain in one fork (the paper's section 3: the same solution is
linked in the same fork). A vote is a block, hashed over its sample, class, height, parent and
ballot; the parent of a fork's first block is the task, so forks hang on their TASK.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from struct import iter_unpack
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rtc_flower.encoding import TAG_BLOCK, TAG_TIPS, digest

NO_CLASS = 0xFFFF
Ints: TypeAlias = npt.NDArray[np.int64]
_PLACE = [("sample", ">u4"), ("cls", ">u2"), ("height", ">u4")]
_BLOCK = np.dtype([("tag", "S16"), *_PLACE, ("parent", "V32"), ("ballot", "V32")])
_TIP = np.dtype([*_PLACE, ("tip", "V32")])
_BYTES = f"{_BLOCK.itemsize}s"  # 90 bytes: two SHA-256 blocks


@dataclass(frozen=True, slots=True)
class Blocks:
    """What one counted ballot minted.

    Attributes
    ----------
    samples, classes : ndarray of int64 (m,)
        Where each block stands.
    hashes : list of bytes
        ``m`` block hashes, 32 bytes each.
    """

    samples: Ints
    classes: Ints
    hashes: list[bytes]


class Forks:
    """Forks of ``n`` samples with ``k`` classes.

    Attributes
    ----------
    leader : ndarray of uint16 (n,)
        Class of the longest fork, the first to reach its height; ``NO_CLASS`` without a vote.
    leader_votes, runner_votes : ndarray of int32 (n,)
        Lengths of the longest and the second longest fork.
    """

    def __init__(self, task_id: bytes, n: int, k: int) -> None:
        self._root = np.frombuffer(task_id, "V32")
        self._slot = np.zeros((n, k), np.int32)  # 0: no fork yet
        self._used = 1
        self._height = np.zeros(1 + n, np.int32)
        self._tip = np.empty(1 + n, "V32")
        self.leader = np.full(n, NO_CLASS, np.uint16)
        self.leader_votes = np.zeros(n, np.int32)
        self.runner_votes = np.zeros(n, np.int32)

    def mint(
        self, ballot_id: bytes, votes: npt.NDArray[np.uint16], where: npt.NDArray[np.bool_]
    ) -> Blocks:
        """Append the votes of one ballot, one block for each sample of ``where``.

        Parameters
        ----------
        votes : ndarray of uint16 (n,)
            Class indices; only those of ``where`` are read.
        where : ndarray of bool (n,)
            Samples that get a block.
        """
        samples = np.flatnonzero(where)
        classes = votes[samples].astype(np.int64)
        slots = self._slots(samples, classes)
        heights = self._height[slots] + 1
        self._height[slots] = heights
        records = np.empty(len(samples), _BLOCK)
        records["tag"] = TAG_BLOCK
        records["sample"] = samples
        records["cls"] = classes
        records["height"] = heights
        records["parent"] = self._tip[slots]
        records["ballot"] = np.frombuffer(ballot_id, "V32")
        hashes = [sha256(block).digest() for (block,) in iter_unpack(_BYTES, records.data)]
        self._tip[slots] = np.frombuffer(b"".join(hashes), "V32")
        self._lead(samples, classes, heights)
        return Blocks(samples, classes, hashes)

    def _slots(self, samples: Ints, classes: Ints) -> npt.NDArray[np.int32]:
        """Slot of each fork; a fork without one gets the next."""
        slots = self._slot[samples, classes]
        fresh = slots == 0
        if fresh.any():
            end = self._used + int(fresh.sum())
            if end > len(self._height):
                room = max(end, 2 * len(self._height))
                self._height = np.concatenate([self._height, np.zeros(room, np.int32)])
                self._tip = np.concatenate([self._tip, np.empty(room, "V32")])
            added = np.arange(self._used, end, dtype=np.int32)
            slots[fresh] = added
            self._slot[samples[fresh], classes[fresh]] = added
            self._tip[added] = self._root
            self._used = end
        return slots

    def _lead(self, samples: Ints, classes: Ints, heights: npt.NDArray[np.int32]) -> None:
        """Update leader and runner-up; ties stay with the first to reach the height."""
        leader, votes = self.leader[samples], self.leader_votes[samples]
        runner = self.runner_votes[samples]
        same, ahead = leader == classes, heights > votes
        overtaken = ahead & ~same
        runner = np.where(overtaken, votes, np.where(same, runner, np.maximum(runner, heights)))
        self.runner_votes[samples] = runner
        self.leader[samples] = np.where(ahead, classes, leader)
        self.leader_votes[samples] = np.where(ahead, heights, votes)

    def tips_hash(self, task_id: bytes) -> bytes:
        """Digest of all fork tips, by sample and class (32 bytes)."""
        samples, classes = np.nonzero(self._slot)
        slots = self._slot[samples, classes]
        columns: list[npt.NDArray[Any]] = [samples, classes, self._height[slots], self._tip[slots]]
        return digest(TAG_TIPS, task_id, np.rec.fromarrays(columns, dtype=_TIP).tobytes())
