"""What an operator emitted on one partition since the last cut: outputs, side outputs and dead letters, by where they go."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from agents.async_io import AsyncTask
from agents.lane.context import LaneContext
from agents.operator.driver import OperatorTask, TimerError
from agents.transport import Output
from models.deadletter import NO_OFFSET, TIMER_DOMAIN, TIMER_TIME, attempt_of, dead_letter_headers
from models.partitioning import partition_of
from models.topics import dlq_topic
from tables.log import Record, TopicPartition

log = logging.getLogger(__name__)


class Emitted:
    """Outputs of one part.  ``records`` counts the source's records (or answered calls) that they come from."""

    def __init__(self, lane: LaneContext, source: TopicPartition) -> None:
        self.outputs: dict[TopicPartition, list[Output]] = {}
        self.records = 0
        self._lane = lane
        self._source = source

    def take(self, task: OperatorTask | AsyncTask, topic: str) -> None:
        """Take over what the task emitted; records that it refused are of ``topic``."""
        lane = self._lane
        if task.outputs:
            if lane.spec.output is not None:
                self._add(lane.spec.output, [(key, value, None) for key, value in task.outputs])
                lane.totals.emitted += len(task.outputs)
            else:
                lane.warn_of_no_output()
            task.outputs.clear()
        if task.sides:
            self._take_sides(task)
        if task.refused:
            tp = TopicPartition(topic, self._source.partition)
            for record, reason in task.refused:
                self._dead_letter(tp, record, reason)
            task.refused.clear()
        if isinstance(task, OperatorTask) and task.timer_errors:
            self._dead_timers(task.timer_errors)
            task.timer_errors.clear()

    def _take_sides(self, task: OperatorTask | AsyncTask) -> None:
        # By topic first: a job may have one for each record.
        of_topic: dict[str, list[Output]] = {}
        of_tag: dict[str, list[Output]] = {}
        for tag, key, value in task.sides:
            outputs = of_tag.get(tag)
            if outputs is None:
                outputs = of_tag[tag] = of_topic.setdefault(self._lane.side_topic(tag), [])
            outputs.append((key.encode(), value, None))
        task.sides.clear()
        for topic, outputs in of_topic.items():
            self._add(topic, outputs)

    def _add(self, topic: str, records: list[Output]) -> None:
        sink = self._lane.sink
        count = sink.partitions(topic)
        if count == sink.partitions(self._source.topic):
            # The key is the source's key, so its partition is the source's partition.
            self.outputs.setdefault(TopicPartition(topic, self._source.partition), []).extend(records)
            return
        for output in records:
            target = TopicPartition(topic, partition_of(output[0] or b"", count))
            self.outputs.setdefault(target, []).append(output)

    def _dead_letter(self, tp: TopicPartition, record: Record, reason: BaseException) -> None:
        topic, partition = tp
        headers = self._headers(tp, record.offset, reason, attempt_of(record.headers) + 1)
        target = self._bury(tp, (record.key, record.value, headers))
        log.warning("%s[%d]@%d goes to %s: %s", topic, partition, record.offset, target, str(reason)[:300])

    def _dead_timers(self, timers: Sequence[TimerError]) -> None:
        """A timer has no record: its dead letter has its key, no value, and says which timer it was."""
        for timer in timers:
            headers = self._headers(self._source, NO_OFFSET, timer.error, 1)
            headers += [(TIMER_DOMAIN, timer.domain.encode()), (TIMER_TIME, b"%d" % timer.timestamp_ms)]
            self._bury(self._source, (timer.key.encode(), None, headers))
        first = timers[0]  # of a million that fail alike, one traceback
        log.error(
            "%d timers of operator %s go to %s; the first, %s time %d of key %r: %s",
            len(timers),
            self._lane.spec.uid,
            dlq_topic(self._source.topic),
            first.domain,
            first.timestamp_ms,
            first.key[:100],
            str(first.error)[:300],
            exc_info=first.error,
        )

    def _headers(self, tp: TopicPartition, offset: int, reason: BaseException, attempt: int) -> list[tuple[str, bytes]]:
        options = self._lane.options
        return dead_letter_headers(
            tp.topic,
            tp.partition,
            offset,
            reason,
            app=options.app_id,
            version=options.app_version,
            operator=self._lane.spec.uid,
            attempt=attempt,
        )

    def _bury(self, tp: TopicPartition, letter: Output) -> str:
        """Count a dead letter and add it; its topic."""
        topic = dlq_topic(tp.topic)
        target = TopicPartition(topic, tp.partition % self._lane.sink.partitions(topic))
        self.outputs.setdefault(target, []).append(letter)
        self._lane.totals.dead_letters += 1
        return topic
