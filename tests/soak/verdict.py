"""Whether a series is flat.  Medians of windows are compared, so that one busy moment of the machine decides nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.soak.samples import Sample

#: (seconds, value) in the order of time.
Series = Sequence[tuple[float, float]]

#: Points that a slope is computed from, at most: it looks at every pair.
POINTS = 300


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is still flat."""

    #: growth of resident memory from the first third to the last
    memory_mb: float = 1.0
    #: of a core, at most, while there is nothing to do
    cpu: float = 0.03
    #: the last third may use so much more than the first: what a clock tick makes of few seconds, and other programs on the machine
    cpu_rise: float = 0.005
    #: further descriptors, sockets or threads
    handles: int = 1


@dataclass(frozen=True)
class Flatness:
    """A worker's figures after the first quarter, and everything that is not flat about them."""

    memory: tuple[float, float]
    memory_per_hour: float
    cpu: tuple[float, float]
    handles: tuple[int, int]
    wrong: tuple[str, ...]


def settled(series: Series) -> Series:
    """The series without its first quarter of the time: by then everything has been loaded and cached that ever will be."""
    first, last = series[0][0], series[-1][0]
    return [point for point in series if point[0] >= first + (last - first) / 4]


def first_and_last(series: Series) -> tuple[float, float]:
    """Medians of the first and of the last third."""
    third = max(1, len(series) // 3)
    return median(value for _, value in series[:third]), median(value for _, value in series[-third:])


def plateau(series: Series) -> tuple[tuple[float, float], float]:
    """The largest values of the first and of the second half after the first quarter, and the growth between them, as a share.

    The largest ones, because what is cleaned now and then rises and falls.
    """
    rest = [value for _, value in settled(series)]
    half = max(1, len(rest) // 2)
    before, after = max(rest[:half]), max(rest[half:] or rest)
    return (before, after), (after - before) / before if before else float(after > 0)


def slope(series: Series) -> float:
    """Growth per second: the median of the slopes between any two points (Theil and Sen)."""
    thinned = series[:: max(1, len(series) // POINTS)]
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in itertools.combinations(thinned, 2) if t > s]
    return median(slopes) if slopes else 0.0


def shares(samples: Sequence[Sample]) -> Series:
    """Share of a core between each sample and the one before."""
    return [
        (after.seconds, (after.cpu - before.cpu) / (after.seconds - before.seconds))
        for before, after in itertools.pairwise(samples)
    ]


def judge(samples: Sequence[Sample], limits: Limits, *, ready: bool = True) -> Flatness:
    """What is not flat about an idle worker that must be ``ready`` all the time (or, a spare, never)."""
    wrong = []
    memory = settled([(one.seconds, one.memory) for one in samples])
    before, after = first_and_last(memory)
    if after - before > limits.memory_mb:
        wrong.append(f"memory grew by {after - before:.1f} MB")
    cpu = settled(shares(samples))
    used, used_last = first_and_last(cpu)
    if max(used, used_last) > limits.cpu:
        wrong.append(f"{max(used, used_last):.1%} of a core with nothing to do")
    if used_last - used > limits.cpu_rise:
        wrong.append(f"CPU rose from {used:.1%} to {used_last:.1%}")
    for what in ("files", "sockets", "threads"):
        few, many = first_and_last(settled([(one.seconds, getattr(one, what)) for one in samples]))
        if many - few > limits.handles:
            wrong.append(f"{what}: {few:.0f} became {many:.0f}")
    others = [one for one in samples if one.ready != ready]
    if others:
        wrong.append(f"{'not ' if ready else ''}ready at {len(others)} of {len(samples)} looks")
    return Flatness(
        memory=(before, after),
        memory_per_hour=slope(memory) * 3600,
        cpu=(used, used_last),
        handles=(_handles(samples[len(samples) // 4]), _handles(samples[-1])),
        wrong=tuple(wrong),
    )


def _handles(one: Sample) -> int:
    return one.files + one.sockets + one.threads
