"""What compiled conditions call: CEL's arithmetic, conversions and times where Python's own would differ.

Inside compiled conditions a timestamp is nanoseconds since 1970 and a duration is nanoseconds, both plain ints.
Every function raises an ``ArithmeticError``, ``LookupError`` or ``ValueError`` where CEL has a run-time error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Literal, TypeVar

T = TypeVar("T")

#: run-time errors of CEL
FAULTS = (ArithmeticError, LookupError, ValueError)
INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
NS_PER_MS, NS_PER_S = 1_000_000, 1_000_000_000
#: 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999999999Z, the ends of CEL's timestamps
TIMESTAMP_MIN_NS, TIMESTAMP_MAX_NS = -62_135_596_800 * NS_PER_S, 253_402_300_800 * NS_PER_S - 1

_UNITS_NS = {"ns": 1, "us": 1000, "ms": NS_PER_MS, "s": NS_PER_S, "m": 60 * NS_PER_S, "h": 3600 * NS_PER_S}
_DURATION = re.compile(r"([+-]?)((?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|ms|s|m|h))+)")
_DURATION_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|ms|s|m|h)")
_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_INT = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*")
_DOUBLE = re.compile(
    r"[ \t\n\v\f\r]*([+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|infinity|nan))[ \t\n\v\f\r]*",
    re.IGNORECASE,
)
_ZONE = re.compile(r"([+-]?)([0-9]{2}):([0-9]{2})")
_TRUE = frozenset({"true", "True", "TRUE", "t", "1"})
_FALSE = frozenset({"false", "False", "FALSE", "f", "0"})


# --- numbers


def checked_int(value: int) -> int:
    """The value, which must fit into 64 bits."""
    if INT_MIN <= value <= INT_MAX:
        return value
    raise OverflowError("integer overflow")


def int_divide(a: int, b: int) -> int:
    """Quotient truncated toward zero."""
    if b == 0:
        raise ZeroDivisionError("divide by zero")
    quotient = abs(a) // abs(b)
    return checked_int(quotient if (a < 0) == (b < 0) else -quotient)


def int_modulo(a: int, b: int) -> int:
    """Remainder with the sign of ``a``."""
    if b == 0:
        raise ZeroDivisionError("modulus by zero")
    if a == INT_MIN and b == -1:
        raise OverflowError("integer overflow")
    remainder = abs(a) % abs(b)
    return -remainder if a < 0 else remainder


def double_divide(a: float, b: float) -> float:
    """IEEE quotient, but dividing by zero is an error, as for integers: a rule that divides by nothing must not fire.

    CEL itself would go on with an infinity, so ``amount / previous_amount() > 5.0`` would fire for every first transaction.
    """
    if b == 0:
        raise ZeroDivisionError("divide by zero")
    return a / b


def int_of_double(value: float) -> int:
    """Truncated toward zero."""
    if -9223372036854775808.0 < value < 9223372036854775808.0:
        return int(value)
    raise OverflowError("double out of int64 range")


def int_of_string(text: str) -> int:
    """Decimal digits with an optional sign, white space around."""
    match = _INT.fullmatch(text)
    if match is None:
        raise ValueError("cannot convert string to int")
    value = int(match[1])
    if INT_MIN <= value <= INT_MAX:
        return value
    raise ValueError("cannot convert string to int")


def double_of_string(text: str) -> float:
    """A decimal number, ``inf``, ``infinity`` or ``nan``, white space around.  Too large is infinite."""
    match = _DOUBLE.fullmatch(text)
    if match is None:
        raise ValueError("cannot convert string to double")
    return float(match[1])


def bool_of_string(text: str) -> bool:
    """``true``, ``True``, ``TRUE``, ``t``, ``1`` and their opposites."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("cannot convert string to bool")


def string_of_bool(value: bool) -> str:
    return "true" if value else "false"


# --- lists


def at(items: Sequence[T], index: int) -> T:
    """Element by index from 0; a negative one is an error, too."""
    if 0 <= index < len(items):
        return items[index]
    raise IndexError(f"index {index} out of {len(items)}")


def in_doubles(value: float, items: Sequence[float]) -> bool:
    """Membership by ``==`` alone: Python's ``in`` would also find the same NaN."""
    return any(item == value for item in items)


def equal_doubles(a: Sequence[float], b: Sequence[float]) -> bool:
    """Equality by ``==`` of the elements alone, as :func:`in_doubles`."""
    return len(a) == len(b) and all(x == y for x, y in zip(a, b, strict=True))


# --- times


def checked_timestamp(ns: int) -> int:
    if TIMESTAMP_MIN_NS <= ns <= TIMESTAMP_MAX_NS:
        return ns
    raise OverflowError("timestamp overflow")


def checked_duration(ns: int) -> int:
    """The duration, which must fit into 64 bits: about 292 years."""
    if INT_MIN <= ns <= INT_MAX:
        return ns
    raise OverflowError("duration overflow")


def duration_of_string(text: str) -> int:
    """``1h30m``, ``1.5s``, ``-100ms``, ``0``: sign, then numbers with the units h, m, s, ms, us, ns.  In ns."""
    if text in {"0", "+0", "-0"}:
        return 0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("cannot convert string to duration")
    total = 0
    for whole, fraction, unit in _DURATION_PART.findall(match[2]):
        ns = _UNITS_NS[unit]
        total += int(whole or "0") * ns
        if fraction:
            part, rest = divmod(int(fraction) * ns, 10 ** len(fraction))
            if rest:
                raise ValueError("duration is finer than a nanosecond")
            total += part
    return checked_duration(-total if match[1] == "-" else total)


def timestamp_of_string(text: str) -> int:
    """An RFC 3339 time with at most 9 decimals and a zone.  In ns."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError("cannot convert string to timestamp: write it as 2024-01-31T23:59:59Z")
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    zone_hour, zone_minute = int(match[9] or "0"), int(match[10] or "0")
    if hour > 23 or minute > 59 or second > 60 or zone_hour > 23 or zone_minute > 59:
        raise ValueError("cannot convert string to timestamp: no such time of day")
    try:
        days = date(year, month, day).toordinal() - 719_163
    except ValueError:
        raise ValueError("cannot convert string to timestamp: no such day") from None
    shift = (zone_hour * 60 + zone_minute) * 60
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second - (-shift if match[8] == "-" else shift)
    return checked_timestamp(seconds * NS_PER_S + int((match[7] or "0").ljust(9, "0")))


def timestamp_of_int(seconds: int) -> int:
    return checked_timestamp(seconds * NS_PER_S)


def zone_of_string(text: str) -> int:
    """Seconds east of UTC of ``UTC``, ``+05:30``, ``-08:00``."""
    if text == "UTC":
        return 0
    match = _ZONE.fullmatch(text)
    if match is None or int(match[2]) > 23 or int(match[3]) > 59:
        raise ValueError("write the time zone as 'UTC' or as a fixed offset such as '+02:00'")
    seconds = int(match[2]) * 3600 + int(match[3]) * 60
    return -seconds if match[1] == "-" else seconds


TimestampPart = Literal[
    "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfYear", "getDayOfWeek", "getHours", "getMinutes",
    "getSeconds", "getMilliseconds",
]  # fmt: skip


def timestamp_part(part: TimestampPart, ns: int, zone_s: int) -> int:
    """A part of the time on the clock of a zone; months and days count from 0 (``getDate`` from 1), Sunday is 0."""
    seconds, rest = divmod(checked_timestamp(ns), NS_PER_S)
    if part == "getMilliseconds":
        return rest // NS_PER_MS
    of_day = (seconds + zone_s) % 86_400
    if part == "getHours":
        return of_day // 3600
    if part == "getMinutes":
        return of_day % 3600 // 60
    if part == "getSeconds":
        return of_day % 60
    if part == "getDayOfWeek":
        return ((seconds + zone_s) // 86_400 + 4) % 7
    days = (seconds + zone_s) // 86_400
    year, month, day = _civil(days)
    if part == "getFullYear":
        return year
    if part == "getMonth":
        return month - 1
    if part == "getDayOfYear":
        past = year - 1
        return days - (365 * past + past // 4 - past // 100 + past // 400 - 719_162)
    return day if part == "getDate" else day - 1


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of a day since 1970-01-01.  A zone may lead out of the years that ``datetime`` knows.

    Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", ``civil_from_days``.
    """
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    return year_of_era + era * 400 + (month <= 2), month, day


def duration_whole(ns: int, unit_ns: int) -> int:
    """Whole units in a duration, truncated toward zero."""
    return ns // unit_ns if ns >= 0 else -(-ns // unit_ns)


def duration_milliseconds(ns: int) -> int:
    """Milliseconds of the last second: what ``getMilliseconds`` gives of a duration."""
    return ns % NS_PER_S // NS_PER_MS if ns >= 0 else -(-ns % NS_PER_S // NS_PER_MS)
