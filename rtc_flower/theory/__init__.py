"""The paper's mathematics, made right: accuracy, catch-up and planning (needs scipy).

`plurality` and `partitions` hold section 4.1, `mixtures` and `sizing` sections 4.2 and 4.4, `races`
section 4.3. The stop
rules themselves are integers and live in `rtc_flower.rules`, which does without scipy.
"""

from __future__ import annotations

from rtc_flower.theory.mixtures import (
    ForkLengths,
    betabinom_accuracy,
    effective_votes,
    expected_fork_lengths,
    heterogeneous_accuracy,
    icc,
    mixed_accuracy,
    rr_accuracy,
)
from rtc_flower.theory.partitions import algorithm1, partition_count
from rtc_flower.theory.plurality import (
    plurality_accuracy,
    plurality_failure,
    plurality_from_pmf,
    plurality_profile,
    win_probabilities,
)
from rtc_flower.theory.races import (
    catch_up,
    lead_error,
    nakamoto_risk,
    race_exact,
    z_for_risk,
)
from rtc_flower.theory.sizing import honest_needed, nodes_needed

__all__ = [
    "ForkLengths",
    "algorithm1",
    "betabinom_accuracy",
    "catch_up",
    "effective_votes",
    "expected_fork_lengths",
    "heterogeneous_accuracy",
    "honest_needed",
    "icc",
    "lead_error",
    "mixed_accuracy",
    "nakamoto_risk",
    "nodes_needed",
    "partition_count",
    "plurality_accuracy",
    "plurality_failure",
    "plurality_from_pmf",
    "plurality_profile",
    "race_exact",
    "rr_accuracy",
    "win_probabilities",
    "z_for_risk",
]
