"""Dates, times of day and years: the span between two, and the one a span later or earlier."""

from __future__ import annotations

from datetime import date, timedelta
from fractions import Fraction

from warpcortex_cli.work.quantities import decimal
from warpcortex_cli.work.question import ANY, MONTHS, Question
from warpcortex_cli.work.reading import Reading, computed, size

_BACK = r"\b(?:before|ago|earlier|prior|back)\b"
_DAY = 24 * 60


def dates(q: Question) -> Reading | None:
    """The days between two dates, the date some days before or after one, or the weekday of one."""
    if q.clocks:
        return None
    if len(q.dates) == 2 and not q.amounts:
        return _between(q)
    if len(q.dates) == 1 and not q.amounts and q.says(r"\bday of the week\b|\b(?:what|which) (?:week)?day\b"):
        return Reading(_named(q.dates[0]), f"{q.dates[0]:%A}") if q.sentences == 1 else None
    if len(q.dates) == 1 and len(q.amounts) == 1:
        return _from_one(q)
    return None


def _between(q: Question) -> Reading | None:
    days = abs((q.dates[1] - q.dates[0]).days)
    weeks = q.says(r"\bhow many weeks\b")
    if not weeks and not q.says(r"\bdays?\b|\bhow long\b"):
        return None
    asked = f"{_named(q.dates[0])} to {_named(q.dates[1])}"
    return Reading(asked, f"{decimal(Fraction(days, 7))} weeks" if weeks else f"{days} day{'s' * (days != 1)}")


def _from_one(q: Question) -> Reading | None:
    unit = q.amounts[0].unit
    if unit not in ("day", "week") or not q.says(r"\b(?:what|which|when|date)\b"):
        return None
    span = size(q.amounts[0].text) * (7 if unit == "week" else 1)
    if span.denominator != 1 or span >= 400_000 or not q.says(rf"\b(?:after|from|later|in|long|lasts?)\b|{_BACK}"):
        return None
    days, back = int(span), q.says(_BACK)
    try:
        found = q.dates[0] + timedelta(days=-days if back else days)
    except OverflowError:
        return None
    return Reading(f"{_named(q.dates[0])} {'-' if back else '+'} {days} days", _named(found))


def clocks(q: Question) -> Reading | None:
    """The span between two times of day, or the time a span later or earlier."""
    if q.dates or q.sentences > 2 or q.says(r"\b(?:each|every|daily|weekdays|days)\b"):
        return None
    if len(q.clocks) == 2 and not q.amounts:
        return _until(q)
    spans = [a for a in q.amounts if a.unit in ("h", "min")]
    if len(q.clocks) != 1 or not 0 < len(spans) == len(q.amounts) <= 2:
        return None
    if len(spans) == 2 and not q.says(rf"{ANY}(?:,? and)? {ANY}"):  # `2 hours 55 minutes` is one span
        return None
    if not q.says(r"\b(?:when|what time|which time|(?:arrival|finish\w*|end|departure|start) time|arrival)\b"):
        return None
    minutes = sum(size(f"{a.text} in min") for a in spans)
    if minutes.denominator != 1:
        return None
    must = r"(?:must|have to|need to|should|do) (?:i|we|you|they) (?:(?:need|have) to )?"
    sets_out = rf"\b{must}(?:leave|start|begin|go|set off)\b"
    back = q.says(rf"{_BACK}|\b(?:departure|start) time\b|{sets_out}")
    there = q.clocks[0] + (-int(minutes) if back else int(minutes))
    asked = f"{_clock(q, q.clocks[0])} {'-' if back else '+'} {' '.join(a.text for a in spans)}"
    day = there // _DAY
    when = "" if not day else " the next day" if day == 1 else " the day before" if day == -1 else None
    return None if when is None else Reading(asked, _clock(q, there % _DAY) + when)


def _until(q: Question) -> Reading | None:
    first, last = q.clocks
    minutes = (last - first) % _DAY
    asked = f"{first // 60}:{first % 60:02} to {last // 60}:{last % 60:02}"
    if q.says(r"\bminutes?\b"):
        return Reading(asked, f"{minutes} minutes")
    if q.says(r"\bhow (?:long|much time)\b|\bhours?\b"):
        hours, rest = divmod(minutes, 60)
        return Reading(asked, f"{hours} h {rest} min" if rest else f"{hours} h")
    return None


def years(q: Question) -> Reading | None:
    """Somebody's age in a year, or the years between two."""
    if q.dates or q.clocks or len(q.amounts) != 2 or q.sentences > 2:
        return None
    first, last = (a.text for a in q.amounts)
    if not all(a.kind == "plain" and a.text.isdigit() and 1000 <= int(a.text) <= 2200 for a in q.amounts):
        return None
    if not q.says(r"\bhow old\b|\bhow many years\b|\bhow long\b|\bwhat age\b") or not q.says(
        r"\b(?:born|from|since|between|in)\b"
    ):
        return None
    return computed(f"{max(first, last)} - {min(first, last)}")


def _named(day: date) -> str:
    return f"{day.day} {MONTHS[day.month - 1].capitalize()} {day.year}"


def _clock(q: Question, minutes: int) -> str:
    """A time in the format that the question uses."""
    hour, rest = divmod(minutes, 60)
    if q.halves:
        return f"{(hour - 1) % 12 + 1}:{rest:02} {'pm' if hour >= 12 else 'am'}"
    return f"{hour}:{rest:02}"
