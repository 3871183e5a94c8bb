"""The fraud job: transactions and rules in, alerts out."""

from __future__ import annotations

import msgspec

from agents.functions.fraud import FraudDetection
from agents.functions.rules import RuleAdmission
from agents.operator import OperatorSpec, Source, keyed_source
from models.topics import TopicNames
from models.transactions import Transaction

FRAUD = OperatorSpec(
    uid="fraud",
    name="Fraud detection",
    job="fraud",
    function=FraudDetection,
    source=keyed_source(TopicNames.TRANSACTIONS, msgspec.json.Decoder(Transaction).decode, "user_id"),
    broadcast=TopicNames.RULES,
    output=TopicNames.ALERTS,
)

RULES = OperatorSpec(
    uid="rules",
    name="Rule admission",
    job="fraud",
    function=RuleAdmission,
    source=Source(topic=TopicNames.RULES),
)
