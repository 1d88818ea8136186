"""Draws random sequences of trials, and writes how MLRsearch 1.2.1, the implementation by the
authors of RFC 9971, classifies their loads. One JSON array for each sequence, one a line:

    [final trial duration, duration sum, exceed ratio,
     [[load, duration, loss ratio in thousandths], ...],
     the class of each load from the smallest one: l(ower bound), u(pper bound), ?,
     relevant lower bound, relevant upper bound,
     loss ratio of the conditional throughput in thousandths]

A trial is bad when its loss ratio exceeds 10 thousandths. Durations are in seconds.

    classify.py SEED SEQUENCES > tests/data/search/sequences.jsonl

Needs PyPI's `MLRsearch`. The stored sequences have the seed 1.
"""

import json
import random
import sys

from MLRsearch.discrete_load import DiscreteLoad
from MLRsearch.discrete_result import DiscreteResult
from MLRsearch.discrete_width import DiscreteWidth
from MLRsearch.load_rounding import LoadRounding
from MLRsearch.measurement_database import MeasurementDatabase
from MLRsearch.target_spec import TargetSpec

GOAL_LOSS = 10  # Thousandths.
WIDTH = 0.05
ROUNDING = LoadRounding(min_load=100.0, max_load=100_000.0, float_goals=(WIDTH,))


def goal(chance):
    """Draws a goal. Durations are multiples of an eighth, which floating point has exactly."""
    trial = chance.randint(1, 16) / 8
    total = trial * chance.randint(1, 8) + chance.choice([0, 0, 0, 0.125, 1.5])
    ratios = [0.0, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.5, 0.5, 0.6, 0.75, 0.9, chance.random()]
    return TargetSpec(
        loss_ratio=GOAL_LOSS / 1000,
        exceed_ratio=chance.choice(ratios),
        discrete_width=DiscreteWidth(rounding=ROUNDING, float_width=WIDTH),
        trial_duration=trial,
        duration_sum=total,
        expansion_coefficient=2,
        fail_fast=False,
        preceding=None,
    )


def trials(chance, target):
    """Draws trials at few loads, so that loads are classified; greater loads are bad more often."""
    loads = sorted(chance.sample(range(100), chance.randint(1, 6)))
    knee = chance.choice(loads)
    noise = chance.choice([0.05, 0.2, 0.4])
    for _ in range(chance.randint(1, 8 * len(loads))):
        load = chance.choice(loads)
        is_bad = (load > knee) != (chance.random() < noise)
        eighths = int(target.trial_duration * 8)
        is_long = chance.random() < 0.6
        low, high = (eighths, 2 * eighths) if is_long else (1, max(1, eighths - 1))
        loss = chance.randint(GOAL_LOSS + 1, 1000) if is_bad else chance.randint(0, GOAL_LOSS)
        yield load, chance.randint(low, high) / 8, loss


def classified(chance):
    target = goal(chance)
    database = MeasurementDatabase(targets=(target,))
    drawn = list(trials(chance, target))
    for load, duration, loss in drawn:
        discrete = DiscreteLoad(rounding=ROUNDING, int_load=load)
        database.add(DiscreteResult(
            intended_duration=duration, intended_load=float(discrete), offered_count=1000,
            loss_count=loss, discrete_load=discrete))
    names = {(True, True): "l", (False, False): "u", (True, False): "?"}
    classes = "".join(
        names[stats.estimates(target)] for stats in database.load_to_stats.values())
    bounds = database.get_relevant_bounds(target)
    lower, upper = (bound and int(bound) for bound in (bounds.clo, bounds.chi))
    throughput = bounds.clo and round(
        bounds.clo.target_to_stat[target].pessimistic_loss_ratio * 1000)
    return [target.trial_duration, target.duration_sum, target.exceed_ratio, drawn, classes,
            lower, upper, throughput]


def main():
    seed, count = (int(text) for text in sys.argv[1:])
    chance = random.Random(seed)
    for _ in range(count):
        print(json.dumps(classified(chance), separators=(",", ":")))


main()
