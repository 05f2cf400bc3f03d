"""The fourth set of calculations as people type them, committed before any change to the grammar.

The author had read the grammar and improved it on the older sets and on phrasings of another list. Then `FOURTH` was
evaluated once, for the figure in the documents. Afterwards the grammar was fixed for what it had got wrong and for
messages of `FOURTH_NONE` (numbers, but no calculation or an ambiguous one) that it had taken for calculations, but not
extended to what it had left alone. A new unbiased figure needs a fifth set.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

from warpcortex_cli.eval.phrasings import Phrasing, digits, made, of, price, whole


def _less(name: str) -> Callable[..., object]:
    return lambda source, drawn: source.randint(1, max(1, drawn[name] - 1))


def _more(name: str) -> Callable[..., object]:
    return lambda source, drawn: drawn[name] + source.randint(1, max(2, drawn[name]))


def _times(name: str, low: int, high: int) -> Callable[..., object]:
    """A multiple of a field."""
    return lambda source, drawn: drawn[name] * source.randint(low, high)


def _day(name: str) -> Callable[..., object]:
    """A date, so many days after 12 January 2025."""
    return lambda source, drawn: _on(date(2025, 1, 12) + timedelta(drawn[name]))


def _on(day: date) -> str:
    return f"{day.day} {day:%B} {day.year}"


def _after(text: str, days: int) -> str:
    return (date.fromisoformat(text) + timedelta(days)).isoformat()


FOURTH: tuple[Phrasing, ...] = (
    Phrasing("price", "hey, how much would {a} cans of paint be at {p} each?",
             lambda a, p: a * of(p), {"a": whole(2, 30), "p": price(8, 40)}),
    Phrasing("price", "got 3 t-shirts at {p} and one hoodie for {q}, what's that all together",
             lambda p, q: 3 * of(p) + of(q), {"p": price(6, 30), "q": price(25, 70)}),
    Phrasing("price", "Lunch was {p}, dinner {q} and the taxi {r}. How much did I spend today?",
             lambda p, q, r: of(p) + of(q) + of(r), {"p": price(6, 20), "q": price(15, 60), "r": price(5, 30)}),
    Phrasing("price", "I'm paying {p} monthly for streaming. what does that add up to over a year?",
             lambda p: 12 * of(p), {"p": price(5, 30)}),
    Phrasing("price", "If {a} bottles cost ${x}, what does one bottle cost?",
             lambda a, x: of(x) / a, {"a": whole(2, 24), "x": _times("a", 2, 15)}),
    Phrasing("price", "we were 5 people at dinner, the bill came to ${x} and we want to split it evenly. how much each",
             lambda x: of(x) / 5, {"x": whole(50, 400)}),
    Phrasing("price", "paid with a 20 euro note, the total was {p}. How much do I get back",
             lambda p: 20 - of(p), {"p": price(2, 19)}),
    Phrasing("price", "My hourly wage is ${p}. How much do I make in {a} hours?",
             lambda p, a: a * of(p), {"p": price(12, 60), "a": whole(3, 45)}),
    Phrasing("price", "{a} nights at ${x} per night plus a cleaning fee of ${y}, total?",
             lambda a, x, y: of(a * x + y), {"a": whole(2, 14), "x": whole(40, 300), "y": whole(20, 90)}),
    Phrasing("price", "250 g of coffee costs {p}. What's the price per kg?", lambda p: 4 * of(p), {"p": price(3, 12)}),
    Phrasing("price", "if i save ${x} a week how much will i have after a year",
             lambda x: of(52 * x), {"x": whole(10, 400)}),
    Phrasing("price", "restaurant bill of ${x} with 15% tip split 4 ways",
             lambda x: of(x) * 115 / 400, {"x": whole(30, 400)}),
    Phrasing("price", "What's the total for a {p} sandwich, a {q} juice and a {r} cookie?",
             lambda p, q, r: of(p) + of(q) + of(r), {"p": price(4, 12), "q": price(2, 6), "r": price(1, 4)}),
    Phrasing("price", "Netflix {p}, Spotify {q}, gym {r} - what do my subscriptions cost per month in total?",
             lambda p, q, r: of(p) + of(q) + of(r), {"p": price(8, 20), "q": price(5, 15), "r": price(15, 60)}),
    Phrasing("percent", "{a}% tip on a ${p} bill?",
             lambda a, p: of(p) * a / 100, {"a": whole(8, 25), "p": price(20, 200)}),
    Phrasing("percent", "what is {p} plus 19% vat", lambda p: of(p) * 119 / 100, {"p": price(10, 999)}),
    Phrasing("percent", "These shoes are ${x}, now {a}% off, what's the new price?",
             lambda x, a: of(x) * (100 - a) / 100, {"x": whole(40, 300), "a": whole(5, 70)}),
    Phrasing("percent", "{x} out of {y} as a percentage",
             lambda x, y: of(x) / y * 100, {"x": whole(1, 90), "y": _times("x", 2, 20)}),
    Phrasing("percent", "My rent is going up {a}% from ${x}. What will the new rent be?",
             lambda a, x: of(x) * (100 + a) / 100, {"a": whole(2, 20), "x": whole(500, 3000)}),
    Phrasing("percent", "How much is a {a}% discount on {x}?",
             lambda a, x: of(x) * a / 100, {"a": whole(5, 70), "x": digits(2, 5)}),
    Phrasing("percent", "stock went from {x} to {y}, percent change?",
             lambda x, y: of(y - x) / x * 100,
             {"x": made(lambda source, drawn: source.randint(2, 90) * 10),
              "y": made(lambda source, drawn: drawn["x"] + drawn["x"] // 10 * source.randint(1, 20))}),
    Phrasing("percent", "what percent is {x} of {y}",
             lambda x, y: of(x) / y * 100, {"x": whole(3, 300), "y": _times("x", 2, 20)}),
    Phrasing("percent", "If my salary of {x} gets a {a}% increase, how much more do I earn?",
             lambda x, a: of(x) * a / 100, {"x": whole(1500, 9000), "a": whole(2, 15)}),
    Phrasing("percent", "{a} students in a class of {b} passed, what's the pass rate in percent?",
             lambda a, b: of(a) / b * 100, {"b": made(lambda source, drawn: source.choice((20, 25, 40, 50))),
                                            "a": _less("b")}),
    Phrasing("percent", "I need {a} percent down payment on a ${x:,} house, how much is that?",
             lambda a, x: of(x) * a / 100, {"a": whole(5, 30), "x": digits(6, 7)}),
    Phrasing("units", "convert {a} kilometers into miles", lambda a: of(a) / of("1.609344"), {"a": whole(2, 900)}),
    Phrasing("units", "{a} cm in inches", lambda a: of(a) / of("2.54"), {"a": whole(10, 300)}),
    Phrasing("units", "how many cups in {a} liters?", lambda a: of(a) / of("0.2365882365"), {"a": whole(2, 20)}),
    Phrasing("units", "My bag is {a} kg, how many pounds is that?",
             lambda a: of(a) / of("0.45359237"), {"a": whole(5, 40)}),
    Phrasing("units", "what is {a}°F in celsius", lambda a: (of(a) - 32) * 5 / 9, {"a": whole(20, 110)}),
    Phrasing("units", "How many hours is {a} minutes?",
             lambda a: of(a) / 60, {"a": made(lambda source, drawn: 30 * source.randint(3, 60))}),
    Phrasing("units", "{a} feet to meters please", lambda a: of(a) * of("0.3048"), {"a": whole(3, 900)}),
    Phrasing("units", "A marathon is 42.195 km, whats that in miles?", lambda: of("42.195") / of("1.609344")),
    Phrasing("units", "how many ml is {p} liters", lambda p: of(p) * 1000, {"p": price(1, 9)}),
    Phrasing("units", "how many months are {a} years?", lambda a: of(12 * a), {"a": whole(2, 60)}),
    Phrasing("rates", "my living room is {a} m by {b} m, how many square meters is that?",
             lambda a, b: of(a * b), {"a": whole(3, 12), "b": whole(3, 9)}),
    Phrasing("rates", "Driving {a} miles at {b} mph, how long will it take in hours?",
             lambda b, a: of(a) / b, {"b": whole(30, 70), "a": _times("b", 2, 9)}),
    Phrasing("rates", "if I drive at {a} km/h for {b} hours how far do I get",
             lambda a, b: of(a * b), {"a": whole(50, 130), "b": whole(2, 9)}),
    Phrasing("rates", "a {a} by {b} foot room, what's the area",
             lambda a, b: of(a * b), {"a": whole(8, 30), "b": whole(8, 30)}),
    Phrasing("rates", "I ran {a} km in {b} minutes, what's my average pace per km?",
             lambda a, b: of(b) / a, {"a": whole(3, 20), "b": _times("a", 4, 7)}),
    Phrasing("rates", "my car uses {a} liters per 100 km, how much do I need for {b} km?",
             lambda a, b: of(a) * b / 100, {"a": whole(4, 12), "b": whole(120, 900)}),
    Phrasing("rates", "typing {a} words per minute, how many minutes for {b} words?",
             lambda a, b: of(b) / a, {"a": whole(30, 90), "b": _times("a", 5, 60)}),
    Phrasing("rates", "A book has {a} pages and I read {b} pages a day. How many days until I'm done?",
             lambda b, a: of(a) / b, {"b": whole(10, 50), "a": _times("b", 4, 20)}),
    Phrasing("dates", "how many days are left from 12 January 2025 until {e}?",
             lambda n: of(n), {"n": whole(3, 300), "e": _day("n")}),
    Phrasing("dates", "what's the date {a} days from 12 January 2025?",
             lambda a: _after("2025-01-12", a), {"a": whole(3, 300)}),
    Phrasing("dates", "what weekday does {d} fall on",
             lambda n: f"{date(2025, 1, 12) + timedelta(n):%A}", {"n": whole(3, 900), "d": _day("n")}),
    Phrasing("dates", "the movie starts at 19:40 and runs 128 minutes, when does it end", lambda: "21:48"),
    Phrasing("dates", "I work from 9:15 to 17:45, how many hours is that", lambda: "8:30"),
    Phrasing("dates", "My flight takes off at 6:55 and lands at 11:20, how long is the flight?", lambda: "4:25"),
    Phrasing("dates", "If I was born in {y}, how old am I in 2027?", lambda y: of(2027 - y), {"y": whole(1950, 2015)}),
    Phrasing("dates", "bus leaves in 45 minutes and it's 13:30 now. when does it leave?", lambda: "14:15"),
    Phrasing("dates", "I have to be there at 10:00 and it takes 35 minutes, when do I need to leave?", lambda: "9:25"),
    Phrasing("dates", "Deadline is {e}, today is 12 January 2025. How many weeks is that?",
             lambda n: of(n) / 7, {"n": made(lambda source, drawn: 7 * source.randint(2, 40)), "e": _day("n")}),
    Phrasing("difference", "I weighed {x} kg in January and now I weigh {y} kg. How much did I lose?",
             lambda x, y: of(x - y), {"x": whole(60, 120), "y": _less("x")}),
    Phrasing("difference", "how much less is {y} than {x}",
             lambda x, y: of(x - y), {"x": digits(2, 6), "y": _less("x")}),
    Phrasing("difference", "Mount Kenya is {x} m, Mount Elgon is {y} m, what's the height difference?",
             lambda x, y: of(x - y), {"x": whole(2000, 6000), "y": _less("x")}),
    Phrasing("difference", "had {x} emails, deleted {y}, how many remain",
             lambda x, y: of(x - y), {"x": digits(2, 5), "y": _less("x")}),
    Phrasing("difference", "My goal is {x} words and I have {y}, how many are left to write?",
             lambda x, y: of(x - y), {"x": digits(3, 6), "y": _less("x")}),
    Phrasing("difference", "{x} vs {y}, what's the difference?",
             lambda x, y: abs(of(x - y)), {"x": digits(2, 6), "y": digits(2, 6)}),
    Phrasing("difference", "we sold {x} tickets last year and {y} this year, how many more is that?",
             lambda x, y: of(y - x), {"x": digits(2, 5), "y": _more("x")}),
    Phrasing("difference", "need {x} dollars for the trip, already saved {y}. how much is missing?",
             lambda x, y: of(x - y), {"x": digits(3, 5), "y": _less("x")}),
    Phrasing("difference", "Population was {x:,} in 2010 and {y:,} in 2020. By how much did it grow?",
             lambda x, y: of(y - x), {"x": digits(4, 7), "y": _more("x")}),
    Phrasing("plain", "{x} times {y} equals what?", lambda x, y: of(x * y), {"x": digits(2, 6), "y": digits(2, 4)}),
    Phrasing("plain", "whats {x} divided by {a}",
             lambda a, x: of(x) / a, {"a": whole(2, 99), "x": _times("a", 11, 9999)}),
    Phrasing("plain", "sum up {x} {y} {z} {w}", lambda x, y, z, w: of(x + y + z + w),
             {"x": digits(2, 7), "y": digits(2, 7), "z": digits(2, 7), "w": digits(2, 7)}),
    Phrasing("plain", "what's {a} squared plus {b} squared",
             lambda a, b: of(a * a + b * b), {"a": digits(2, 3), "b": digits(2, 3)}),
    Phrasing("plain", "what is the average of {x}, {y}, {z} and {w}?", lambda x, y, z, w: of(x + y + z + w) / 4,
             {"x": digits(2, 5), "y": digits(2, 5), "z": digits(2, 5), "w": digits(2, 5)}),
    Phrasing("plain", "double {x}", lambda x: of(2 * x), {"x": digits(2, 7)}),
    Phrasing("plain", "Can you multiply {x} with {y} for me",
             lambda x, y: of(x * y), {"x": digits(2, 6), "y": digits(2, 4)}),
    Phrasing("plain", "a third of {x}", lambda x: of(x) / 3, {"x": digits(2, 6)}),
    Phrasing("plain", "({a} + {b}) * {c}", lambda a, b, c: of((a + b) * c),
             {"a": digits(2, 5), "b": digits(2, 5), "c": digits(2, 3)}),
    Phrasing("plain", "3/4 of {x}", lambda x: of(x) * 3 / 4, {"x": digits(2, 6)}),
    Phrasing("page", "Receipt\nMilk {p}\nBread {q}\nEggs {r}\nButter {s}\n\nhow much did everything cost?",
             lambda p, q, r, s: of(p) + of(q) + of(r) + of(s),
             {"p": price(1, 3), "q": price(2, 5), "r": price(2, 6), "s": price(2, 5)}),
    Phrasing("page", "| name | age |\n|---|---|\n| Olga | {a} |\n| Priya | {b} |\n| Sam | {c} |\n\n"
             "How much older is Priya than Olga?",
             lambda a, b: of(b - a), {"a": whole(12, 45), "b": _more("a"), "c": whole(8, 90)}),
    Phrasing("page", "The museum had {x} visitors in May and {y} visitors in June. It is closed on Mondays.\n\n"
             "How many visitors came in the two months together?",
             lambda x, y: of(x + y), {"x": digits(3, 6), "y": digits(3, 6)}),
    Phrasing("page", "Monday: {a} h\nTuesday: {b} h\nWednesday: {c} h\nThursday: {d} h\n\naverage hours per day?",
             lambda a, b, c, d: of(a + b + c + d) / 4,
             {"a": whole(2, 10), "b": whole(2, 10), "c": whole(2, 10), "d": whole(2, 10)}),
    Phrasing("page", "The Golden Gate Bridge is {x:,} metres long and was opened in 1937. The Brooklyn Bridge is {y:,} "
             "metres long and was opened in 1883.\n\n"
             "How much longer is the Golden Gate Bridge than the Brooklyn Bridge?",
             lambda y, x: of(x - y), {"y": digits(4, 4), "x": _more("y")}),
    Phrasing("page", "Hi! The hotel is ${x}, the flights are ${y} and the rental car is ${z}. Let me know what you "
             "think.\n\nwhat's the total cost of the trip?",
             lambda x, y, z: of(x + y + z), {"x": whole(200, 2000), "y": whole(90, 900), "z": whole(90, 500)}),
    Phrasing("page", "item,price\nchair,{x}\ndesk,{y}\nlamp,{z}\n\nsum of all prices?",
             lambda x, y, z: of(x + y + z), {"x": whole(20, 200), "y": whole(90, 900), "z": whole(10, 90)}),
    Phrasing("page", "Rovers scored {x} goals this season, United scored {y} goals and City {z}.\n\n"
             "how many more goals did Rovers score than United",
             lambda y, x: of(x - y), {"y": whole(10, 60), "x": _more("y"), "z": whole(10, 90)}),
    Phrasing("page", "Salary: {x:,}\nBonus: {y:,}\nPension: {z:,}\n\nWhat do salary and bonus add up to?",
             lambda x, y: of(x + y), {"x": digits(4, 5), "y": digits(3, 4), "z": digits(3, 4)}),
    Phrasing("page", "Revenue by quarter. Q1: ${x:,}. Q2: ${y:,}. Q3: ${z:,}.\n\n"
             "How much did revenue grow from Q1 to Q2?",
             lambda x, y: of(y - x), {"x": digits(4, 7), "y": _more("x"), "z": digits(4, 7)}),
    Phrasing("page", "Ingredients: {a} g flour, {b} g sugar, {c} g butter, 3 eggs.\n\n"
             "how many grams of flour and sugar in total?",
             lambda a, b: of(a + b), {"a": whole(100, 900), "b": whole(50, 400), "c": whole(50, 300)}),
    Phrasing("page", "Menu\ncoffee {p}\ntea {q}\ncake {r}\n\nHow much are 2 coffees and a cake?",
             lambda p, r: 2 * of(p) + of(r), {"p": price(2, 5), "q": price(2, 5), "r": price(3, 7)}),
    Phrasing("page", "The company had {x:,} employees in 2019. By 2023 it had {y:,}.\n\n"
             "By how many employees did it grow?",
             lambda x, y: of(y - x), {"x": digits(2, 5), "y": _more("x")}),
    Phrasing("page", "Order 48213\nDate: 3 May 2024\nKeyboard ${p}\nMouse ${q}\nShipping free\n\n"
             "how much for the keyboard and the mouse?",
             lambda p, q: of(p) + of(q), {"p": price(20, 150), "q": price(8, 80)}),
    Phrasing("page", "Kitchen {a} m2\nBedroom {b} m2\nBathroom {c} m2\n\nhow big is the flat altogether?",
             lambda a, b, c: of(a + b + c), {"a": whole(8, 30), "b": whole(9, 30), "c": whole(4, 12)}),
)  # fmt: skip

FOURTH_NONE: tuple[str, ...] = (
    "is 20 minutes of exercise a day enough?",
    "What's a good tip for a 2 hour haircut?",
    "Name 5 countries with more than 100 million people",
    "How much is a flight to Rome for 2 people in May?",
    "I have 3 exams in 4 days, how do I plan my time?",
    "what is the difference between 5g and 4g",
    "My son is 8 and reads at the level of a 10 year old. Should I worry?",
    "write a python function that adds 2 numbers",
    "who was king of england from 1509 to 1547",
    "What's the total population of the EU 27?",
    "The meeting is at 14:00 on 3 June. Can you write an invitation for 12 people?",
    "How much water should a 70 kg person drink in 24 hours?",
    "Which is cheaper, the 10:15 or the 11:40 train?",
    "rate my plan: run 5 km every day for 30 days",
    "give me 10 names for a cat and 10 for a dog",
    "how many calories do 2 eggs and 3 slices of toast have together?",
    "Is it true that 1 in 4 people snore?",
    "what happened between 1933 and 1945",
    "how long does it take to drive from Paris to Lyon at 130 km/h?",
    "Explain 2 Corinthians 5:17",
    "what does the 5% rule mean in investing?",
    "Our house number is 45 and the neighbours' is 47. What do I tell the postman?",
    "Convert this to a list: red 5, blue 7, green 9",
    "A 40 year old with 20% body fat, is that okay?",
    "What's new in iOS 17.2 compared to 17.1?",
    "My uncle bought 3 shares in 1998 and 2 in 2004. Was that smart?",
    "Rome 2 Paris 0, was that the final?",
    "how do I split 6 kids into 2 fair teams",
    "Change the font size from 12 to 14 in word, how?",
    "What discount do students get at the 4 big museums?",
    "We live on the 3rd floor, 24 steps each. any tips against noise?",
    "the 100 years war: how many years did it last",
    "Who is older, Messi (1987) or Ronaldo (1985)?",
    "add 2 eggs and 200 g flour to my shopping list",
    "What is 50 Cent's real name?",
    "My 2 dogs eat 3 times a day. Is that too much?",
    "When does the 10 days quarantine start?",
    "Write an ad: 3 rooms, 80 m2, 1200 euros a month",
    "How many of the 50 states are landlocked?",
    "I left at 7:30 and came back at 19:00. Was dinner late?",
)
