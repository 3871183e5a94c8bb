"""Prometheus metrics, read from the lanes' own counters when somebody asks; nothing is counted twice per record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from agents.lane import Lane
from agents.operator.metrics import Histogram, OperatorMetrics
from app.recovery import StateRestorer
from models.metrics import CATALOGUE

#: A function's histogram with this end of its name is in milliseconds, and published in seconds.
MILLISECONDS = "_ms"


def _family(name: str, labels: list[str]) -> CounterMetricFamily | GaugeMetricFamily:
    spec = CATALOGUE[name]
    kind = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    return kind(name, spec.meaning, labels=labels)


def _by_name(kept: Iterable[OperatorMetrics]) -> dict[tuple[str, str], list[Histogram]]:
    found: dict[tuple[str, str], list[Histogram]] = {}
    for metrics in kept:
        for key, histogram in metrics.histograms.items():
            found.setdefault(key, []).append(histogram)
    return found


def _buckets(histograms: Sequence[Histogram]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets with their bounds in seconds, and the sum of the values in seconds."""
    sums = accumulate(map(sum, zip(*(histogram.counts for histogram in histograms), strict=True)))
    bounds = [*(str(bound / 1000) for bound in histograms[0].bounds), "+Inf"]
    return list(zip(bounds, sums, strict=True)), sum(histogram.total for histogram in histograms) / 1000


class Worker(Protocol):
    """What is asked of the application."""

    @property
    def lanes(self) -> Sequence[Lane]: ...
    @property
    def restorer(self) -> StateRestorer: ...
    def rule_stats(self) -> Mapping[str, Mapping[str, int]]: ...


class LaneCollector(Collector):
    """Collects from one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._lanes()
        yield from self._functions()
        yield from self._rules()
        restore = _family("famulus_restore_seconds", [])
        restore.add_metric([], self._worker.restorer.last_seconds)
        yield restore
        progress = self._worker.restorer.progress
        remaining = _family("famulus_restore_remaining_records", [])
        remaining.add_metric([], progress.remaining)
        yield remaining
        left = _family("famulus_restore_remaining_seconds", [])
        if progress.seconds_left is not None:
            left.add_metric([], progress.seconds_left)
        yield left

    def _lanes(self) -> Iterator[Metric]:
        records = _family("famulus_records_processed", ["operator"])
        emitted = _family("famulus_records_emitted", ["operator"])
        letters = _family("famulus_dead_letters", ["operator"])
        pending = _family("famulus_records_not_durable", ["operator", "partition"])
        watermark = _family("famulus_watermark_seconds", ["operator", "partition"])
        for lane in self._worker.lanes:
            uid = lane.spec.uid
            records.add_metric([uid], lane.totals.processed)
            emitted.add_metric([uid], lane.totals.emitted)
            letters.add_metric([uid], lane.totals.dead_letters)
            for number, opened in lane.partitions.items():
                pending.add_metric([uid, str(number)], opened.next_offset - opened.durable)
                watermark.add_metric([uid, str(number)], max(0, opened.task.context.watermark_ms) / 1000)
        yield from (records, emitted, letters, pending, watermark)

    def _functions(self) -> Iterator[Metric]:
        labels = ["operator", "name", "label"]
        events, values = _family("famulus_function_events", labels), _family("famulus_function_value", labels)
        seconds = HistogramMetricFamily(
            "famulus_function_seconds", CATALOGUE["famulus_function_seconds"].meaning, labels=labels
        )
        for lane in self._worker.lanes:
            uid, kept = lane.spec.uid, list(lane.function_metrics())
            for family, kind in ((events, "counters"), (values, "gauges")):
                totals: dict[tuple[str, str], float] = {}
                for metrics in kept:
                    for key, metric in getattr(metrics, kind).items():
                        totals[key] = totals.get(key, 0) + metric.value
                for (name, label), value in sorted(totals.items()):
                    family.add_metric([uid, name, label], value)
            for (name, label), histograms in _by_name(kept).items():
                if name.endswith(MILLISECONDS):
                    buckets, total = _buckets(histograms)
                    seconds.add_metric([uid, name.removesuffix(MILLISECONDS), label], buckets, total)
        yield from (events, values, seconds)

    def _rules(self) -> Iterator[Metric]:
        fired = _family("famulus_rule_fired", ["rule_id"])
        errors = _family("famulus_rule_errors", ["rule_id"])
        for rule_id, stats in sorted(self._worker.rule_stats().items())[:1000]:
            fired.add_metric([rule_id], stats["fired"])
            errors.add_metric([rule_id], stats["errors"])
        yield from (fired, errors)
