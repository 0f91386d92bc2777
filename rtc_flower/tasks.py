"""What TASK may say: the parameters that decide an outcome, checked before any vote."""

from __future__ import annotations

import numpy as np

from rtc_flower.entries import Task
from rtc_flower.errors import ReplayError, TaskError, UnsupportedError
from rtc_flower.roster import Roster
from rtc_flower.rules import Order, Rule

MAX_COUNTS = 2**28
"""Most samples times classes: a gigabyte of counts. A task beyond it is split."""


def check_parameters(task: Task) -> None:
    """Refuse parameters that no task may have.

    Raises
    ------
    TaskError
        Naming the value and its range.
    """
    if task.rule not in tuple(Rule):
        raise TaskError(f"rule must be one of 1 to {max(Rule)}, got {task.rule}")
    if task.order not in tuple(Order):
        raise TaskError(f"counting order must be arrival or invitation, got {task.order}")
    # Not after the names, each of which is compared with each: this bounds how many there are.
    task.stop_rule.check(Order(task.order), int(np.count_nonzero(task.members())))
    if task.n * task.k > MAX_COUNTS:
        what = f"samples times classes must be at most {MAX_COUNTS:,}; split the task"
        raise TaskError(f"{what}, got {task.n:,} times {task.k}")
    repeated = sorted({name for name in task.class_names if task.class_names.count(name) > 1})
    if repeated:
        raise TaskError(f"class names must differ, got {', '.join(map(repr, repeated))} repeated")
    if "" in task.class_names:
        raise TaskError("class names must not be empty")
    if not 1 <= task.close_min <= task.n:
        raise TaskError(f"close_min must be 1 to {task.n} samples, got {task.close_min}")


def check_task(task: Task, *, roster: Roster, last_close: bytes) -> None:
    """Check R4: a TASK against its parameters' ranges, the roster and the last CLOSE.

    Raises
    ------
    ReplayError
        With rule R4.
    UnsupportedError
        If the rule is of a newer version.
    """
    if task.rule not in tuple(Rule):
        raise UnsupportedError(f"rule {task.rule}; this program knows rules 1 to {max(Rule)}")
    try:
        check_parameters(task)
    except TaskError as error:
        raise ReplayError("R4", str(error)) from error
    named, newest = (task.roster_version, task.roster_size), (roster.version, len(roster.members))
    if named != newest:
        raise ReplayError("R4", f"expected roster version and size {newest}, got {named}")
    active = set(roster.active().values())
    revoked = [int(i) for i in np.flatnonzero(task.members()) if int(i) not in active]
    if revoked:
        raise ReplayError("R4", f"expected active members only, got positions {revoked}")
    if task.last_close != last_close:
        raise ReplayError("R4", "expected TASK to name the last CLOSE")
