"""Side outputs, as a job's topics hold them."""

from __future__ import annotations

import msgspec

from agents.operator import Context, KeyedProcessFunction, OperatorSpec, OutputTag, keyed_source
from agents.testing import JobHarness
from models.topics import dlq_topic


class Event(msgspec.Struct):
    user: str
    n: int
    timestamp: int = 1


ODD = OutputTag[object]("odd")


class Odd(KeyedProcessFunction[Event, int]):
    """Sends odd numbers to the side; thirteen with something that JSON cannot hold."""

    def process_element(self, event: Event, ctx: Context) -> list[int] | None:
        if event.n % 2 == 0:
            return [event.n]
        ctx.output(ODD, object() if event.n == 13 else {"n": event.n})
        return None


SPEC = OperatorSpec(
    uid="odd",
    name="Odd",
    job="odd",
    function=Odd,
    source=keyed_source("numbers", msgspec.json.Decoder(Event).decode, "user"),
    output="even",
    side_outputs={ODD: "odd-numbers"},
)


def test_a_value_that_cannot_be_encoded_costs_its_record_and_no_other() -> None:
    with JobHarness(SPEC) as job:
        for n in (1, 13, 2, 3):
            job.send("numbers", "ann", Event("ann", n))
        job.run()
        assert job.read("odd-numbers") == [{"n": 1}, {"n": 3}]
        assert job.read("even") == [2]
        (letter,) = job.records(dlq_topic("numbers"))
        assert letter.value["n"] == 13
        assert b"object" in letter.headers["error-message"]


def test_side_outputs_have_the_key_and_the_order_of_their_records() -> None:
    with JobHarness(SPEC) as job:
        for n in (1, 3, 5, 7):
            user = "ann" if n < 4 else "bob"
            job.send("numbers", user, Event(user, n))
        job.run()
        found = [(str(record.key), record.value["n"]) for record in job.records("odd-numbers")]
        assert sorted(found, key=lambda one: one[0]) == [("ann", 1), ("ann", 3), ("bob", 5), ("bob", 7)]
