"""pocket's world: notes, questions on them, and how a River and its Streams answer.

Everything the model learns is made here from a random generator. In every sentence the key stands before the value,
because a causal model cannot look a value up by a word that comes after it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from warpcortex_cli.pocket import arithmetic
from warpcortex_cli.pocket.vocabulary import COLOURS, Thing, Words, made_up

_T = TypeVar("_T")
ABOUT = (
    "I am pocket, the small model inside warpcortex. Give me notes such as "
    "'Mara keeps ropes: 47, brown, in the old mill.' and ask how many, where, what colour, how many in total."
)
UNKNOWN = "The notes do not say."
NOTED = "Noted."
STYLES = 5


@dataclass(frozen=True)
class Fact:
    """Who keeps what: `Mara keeps ropes: 47, brown, in the old mill.`"""

    person: str
    thing: Thing
    count: int
    colour: str
    place: str

    @property
    def name(self) -> str:
        return f"{self.thing.many} of {self.person}"

    def details(self) -> str:
        return f"{self.count}, {self.colour}, {self.place}"

    def quoted(self) -> str:
        """The note as pocket repeats it, word by word, so that the answer is the next thing to copy."""
        return f"The {self.name}: {self.details()}."

    def sentence(self, style: int) -> str:
        """The note in one of `STYLES` phrasings."""
        p, t = self.person, self.thing.many
        return (
            f"{p} keeps {t}: {self.details()}.",
            f"The {t} of {p}: {self.details()}.",
            f"{p}'s {t}: {self.details()}.",
            f"{p} has {t}: {self.details()}.",
            f"About the {t} of {p}: {self.details()}.",
        )[style]


@dataclass(frozen=True)
class World:
    """The facts and prices of one conversation."""

    facts: tuple[Fact, ...]
    prices: dict[Thing, int]

    def others_at(self, place: str, person: str) -> list[str]:
        """Names in the order of the notes, each once."""
        return list(dict.fromkeys(f.person for f in self.facts if f.place == place and f.person != person))


def make_world(words: Words, notes: int, crowded: bool = False) -> World:
    """A world of `notes` sentences. People and things clash on purpose; one sentence in five is a price.

    `crowded`: few people and places, so that many facts share one.
    """
    rng = words.rng
    n_prices = sum(rng.random() < 0.2 for _ in range(notes - 1))
    n_facts = max(1, notes - n_prices)
    share = rng.uniform(0.15, 0.5) if crowded else 0.0
    people = _distinct(words.name, max(2, round(n_facts * (share or rng.uniform(0.35, 1.0)))))
    things = _distinct(words.thing, max(2, round(n_facts * rng.uniform(0.35, 1.0))))
    places = _distinct(words.place, max(1, round(n_facts * (share or rng.uniform(0.5, 0.9)))))
    pairs: dict[tuple[str, Thing], None] = {}
    while len(pairs) < n_facts:
        pairs[rng.choice(people), rng.choice(things)] = None
        if len(pairs) >= len(people) * len(things):
            break
    facts = tuple(Fact(p, t, _count(rng), words.colour(), rng.choice(places)) for p, t in pairs)
    priced = rng.sample(things, min(len(things), n_prices))
    return World(facts, {t: _price(rng) for t in priced})


def _distinct(draw: Callable[[], _T], count: int) -> list[_T]:
    """`count` different draws, in the order they came."""
    out: dict[_T, None] = {}
    while len(out) < count:
        out[draw()] = None
    return list(out)


def _count(rng: random.Random) -> int:
    return rng.randint(100, 999) if rng.random() < 0.06 else rng.randint(1, 99)


def _price(rng: random.Random) -> int:
    return rng.randint(13, 60) if rng.random() < 0.1 else rng.randint(2, 12)


def sentences_of(world: World, rng: random.Random) -> list[str]:
    """The world in sentences, mostly of one style."""
    kind = rng.random()
    one_style = rng.randrange(2) if kind < 0.7 else rng.randrange(STYLES)
    lines = [f.sentence(rng.randrange(STYLES) if kind > 0.85 else one_style) for f in world.facts]
    for thing, price in world.prices.items():
        line = rng.choices(
            (f"One {thing.one} costs {price} coins.", f"The price of one {thing.one}: {price} coins."), (3, 1)
        )[0]
        lines.insert(rng.randint(0, len(lines)), line)
    return lines


def join_notes(sentences: list[str], rng: random.Random) -> str:
    """One line each, or now and then one paragraph."""
    return (" " if rng.random() < 0.15 else "\n").join(sentences)


def notes_text(world: World, rng: random.Random) -> str:
    return join_notes(sentences_of(world, rng), rng)


@dataclass(frozen=True)
class Request:
    """A request in River text, and the work that its Stream should write."""

    trigger: str
    task: str
    work: str

    @property
    def thought(self) -> str:
        return self.work.splitlines()[-1].removeprefix("= ")

    @property
    def text(self) -> str:
        return f"[{self.trigger}: {self.task}]"

    @property
    def plain(self) -> str:
        """The task as a calculating Stream reads it: numbers without their names."""
        return self.thought.rpartition(" = " if self.trigger == "MATH" else ": ")[0]


@dataclass(frozen=True)
class Answer:
    """River text before a request, the request, text while it waits, and the end (the answer proper)."""

    question: str
    kind: str
    end: str
    start: str = ""
    request: Request | None = None
    meanwhile: str = ""
    value: str = ""


@dataclass(frozen=True)
class Joining:
    """What stands between the terms of a sum, and before the last one."""

    between: str
    last: str

    def text(self, terms: list[str]) -> str:
        return self.last.join(filter(None, (self.between.join(terms[:-1]), terms[-1])))


COMMON_JOININGS = (
    Joining(", ", " and "),
    Joining(" and ", " and "),
    Joining(", ", ", "),
    Joining(", ", ", and "),
)
SEPARATORS = (
    *(", ", " and ", ", and ", " plus ", " + ", " with ", "; ", " & ", " / ", ", then ", " and also ", ", also "),
    *(" and the ", ", the ", " on top of ", ", and also the ", ", plus the ", " next to ", " together with ", " then "),
    *(" in addition to ", " added to ", " besides ", " and then ", ", not to forget ", " and all ", ", as also "),
)
SUM_QUESTIONS = (
    "How many {} in total?",
    "How many {} together?",
    "What is the sum of {}?",
    "How many {} are there in all?",
    "How many {} are there?",
    "What do {} add up to?",
    "What do {} come to?",
    "How many are {} taken together?",
    "How many {} do they have between them?",
    "Add {}.",
    "Add up {}.",
    "Sum of {}?",
    "Sum up {}, please.",
    "Give me the sum of {}.",
    "I want to know how many {} I can count.",
    "Tell me how many {} that makes.",
    "In total, how many {}?",
    "Taken together, how many {}?",
    "How much is {}?",
    "If I put {} in one heap, how many is that?",
    "{}: how many in total?",
)


_BEGINNINGS = (
    *("How many", "How much is", "What is", "Just how many", "And how many", "So how many", "Now how many"),
    *("What is the sum of", "What's the sum of", "Find the sum of", "The sum of", "Work out", "Calculate", "Sum"),
    *("Tell me how many", "Say how many", "Can you say how many", "Can you tell me how many", "Do you know how many"),
    *("I would like to know how many", "I wonder how many", "I need to know how many", "Please tell me how many"),
    *("Please add", "Add together", "Put together", "Can you add", "Can you add up", "Take together", "Tell me about"),
    *("What number is", "What do I get for", "Give me", "Give me the number of", "What is the number of", "All of"),
)
_ENDINGS = (
    *("in total", "together", "all told", "in sum", "all in all", "combined", "taken together", "in one heap", ""),
    *("are there", "are there all told", "are there together", "do we have", "are in the notes", "do the notes name"),
    *("does that make", "in the end", "as one number", "when added", "all at once", "on the whole", "put together", ""),
)


def worded_question(rng: random.Random) -> str:
    """A question for a sum, with a blank, made of a beginning and an ending."""
    beginning, ending = rng.choice(_BEGINNINGS), rng.choice(_ENDINGS)
    return f"{beginning} {{}} {ending}".strip() + rng.choice(("?", "?", "?", ".", ", please.", ""))


def joining(rng: random.Random, invented: float = 0.0) -> Joining:
    """A way to join the terms of a sum: a common one in two of three cases, else anything, so as not to be relied on.

    `invented`: how often it consists of invented words.
    """
    if invented and rng.random() < invented:
        between, last = (f"{rng.choice(('', '', ',', ';'))} {_invented(rng, 1)} " for _ in range(2))
        return Joining(between, between if rng.random() < 0.7 else last)
    if rng.random() < 0.67:
        return rng.choice(COMMON_JOININGS)
    between = rng.choice(SEPARATORS)
    return Joining(between, between if rng.random() < 0.6 else rng.choice(SEPARATORS))


def _invented(rng: random.Random, fewest: int) -> str:
    """Up to three invented words."""
    return " ".join(made_up(rng) for _ in range(rng.randint(fewest, 3)))


def invented_question(rng: random.Random) -> str:
    """A question with a blank in invented words. Only naming several things shows that a sum is wanted."""
    begin = " ".join(filter(None, (rng.choice(("How many", "What is", "Tell me", "Give me", "")), _invented(rng, 0))))
    end = " ".join(filter(None, ("{}", _invented(rng, 0 if begin else 1)))) + rng.choice("??.")
    return f"{begin[:1].upper()}{begin[1:]} {end}".strip()


def sum_question(facts: list[Fact], joined: Joining, question: str, article: str = "") -> str:
    """A question for the sum of `facts`; `question` has a blank for them."""
    return question.format(joined.text([article + f.name for f in facts]))


def _known(f: Fact) -> str:
    """A number as a request names it: after its key, so that it is recalled where it is needed."""
    return f"{f.name}: {f.count}"


def ask_count(w: World, rng: random.Random) -> Answer:
    f = rng.choice(w.facts)
    q = rng.choices(
        (
            f"How many {f.thing.many} does {f.person} have?",
            f"How many {f.thing.many} does {f.person} keep?",
            f"What is the number of {f.name}?",
            f"How many {f.name}?",
        ),
        (5, 1, 1, 1),
    )[0]
    # In answers, too, the key stands before the value.
    return Answer(q, "count", f"The {f.name}: {f.count}.", value=str(f.count))


def ask_place(w: World, rng: random.Random) -> Answer:
    f = rng.choice(w.facts)
    q = rng.choices(
        (
            f"Where are the {f.name}?",
            f"Where does {f.person} keep the {f.thing.many}?",
            f"Where does {f.person} keep {f.thing.many}?",
        ),
        (4, 1, 1),
    )[0]
    return Answer(q, "place", f.quoted(), value=f.place)


def ask_colour(w: World, rng: random.Random) -> Answer:
    f = rng.choice(w.facts)
    word = rng.choice(("colour", "colour", "color"))
    q = rng.choices((f"What {word} are the {f.name}?", f"Which {word} are {f.person}'s {f.thing.many}?"), (4, 1))[0]
    return Answer(q, "colour", f"The {f.name}: {f.count}, {f.colour}.", value=f.colour)


def ask_total(w: World, rng: random.Random, invented: float = 0.0, worded: float = 0.0) -> Answer | None:
    """A question for a sum. `invented`: how often its joining words, and the question's words, are invented.

    `worded`: how often the question is put together (`worded_question`).
    """
    n = min(rng.choices((2, 3, 4, 5), (2, 3, 2.5, 2.5))[0], len(w.facts))
    if n < 2:
        return None
    facts = rng.sample(w.facts, n)
    question = rng.choices(SUM_QUESTIONS, (20, *(1,) * (len(SUM_QUESTIONS) - 1)))[0]
    if worded and rng.random() < worded:
        question = worded_question(rng)
    if invented and rng.random() < invented:
        question = invented_question(rng)
    return total_of(facts, sum_question(facts, joining(rng, invented), question, rng.choice(("",) * 6 + ("the ",))))


def ask_plain_total(w: World, rng: random.Random) -> Answer | None:
    """The form in the README: `How many ropes of Mara, lamps of Otto and tongs of Ida in total?`"""
    n = min(rng.choices((2, 3, 4, 5), (5, 2, 1.5, 1.5))[0], len(w.facts))
    if n < 2:
        return None
    facts = rng.sample(w.facts, n)
    return total_of(facts, sum_question(facts, COMMON_JOININGS[0], SUM_QUESTIONS[0]))


def total_of(facts: list[Fact], question: str) -> Answer:
    """The answer to a question for the sum of `facts`. Each number is recalled by its name, in the question's order."""
    sum_ = " + ".join(str(f.count) for f in facts)
    total = str(arithmetic.evaluate(sum_))
    return Answer(
        question,
        "total",
        f"In total: {total}.",
        "",
        Request("MATH", " + ".join(_known(f) for f in facts), arithmetic.work(sum_)),
        "Adding them up.",
        total,
    )


def ask_difference(w: World, rng: random.Random) -> Answer | None:
    if len(w.facts) < 2:
        return None
    a, b = rng.sample(w.facts, 2)
    if a.count < b.count and rng.random() < 0.8:
        a, b = b, a
    q = rng.choices(
        (
            f"How many more {a.thing.many} does {a.person} have than {b.person} has {b.thing.many}?",
            f"What is the difference between the {a.name} and the {b.name}?",
        ),
        (4, 1),
    )[0]
    value = str(a.count - b.count)
    return Answer(
        q,
        "difference",
        f"The difference: {value}.",
        "",
        Request("MATH", f"{_known(a)} - {_known(b)}", arithmetic.work(f"{a.count} - {b.count}")),
        "Subtracting.",
        value,
    )


def ask_cost(w: World, rng: random.Random) -> Answer | None:
    priced = [f for f in w.facts if f.thing in w.prices]
    if not priced:
        return None
    f = rng.choice(priced)
    price = w.prices[f.thing]
    q = rng.choices(
        (
            f"What do the {f.name} cost in coins?",
            f"How many coins do the {f.name} cost?",
            f"What do the {f.name} cost?",
        ),
        (4, 1, 1),
    )[0]
    task = f"{_known(f)} * one {f.thing.one} costs {price}"
    value = str(f.count * price)
    return Answer(
        q,
        "cost",
        f"They cost {value} coins.",
        "",
        Request("MATH", task, arithmetic.work(f"{f.count} * {price}")),
        "Multiplying.",
        value,
    )


def ask_price(w: World, rng: random.Random) -> Answer | None:
    if not w.prices:
        return None
    thing, price = rng.choice(list(w.prices.items()))
    q = rng.choice((f"What does one {thing.one} cost?", f"What is the price of one {thing.one}?"))
    return Answer(q, "price", f"One {thing.one} costs {price} coins.", value=str(price))


def ask_compare(w: World, rng: random.Random) -> Answer | None:
    if len(w.facts) < 2:
        return None
    a, b = rng.sample(w.facts, 2)
    q = f"Does {a.person} have more {a.thing.many} than {b.person} has {b.thing.many}?"
    end = f"Yes, {a.person} has more." if a.count > b.count else f"No, {a.person} has not more."
    return Answer(
        q,
        "compare",
        end,
        "",
        Request("CHECK", f"{_known(a)} > {_known(b)}", arithmetic.compare(a.count, b.count)),
        "Comparing.",
        "yes" if a.count > b.count else "no",
    )


def keepers_request(w: World, place: str, but: str) -> Request:
    """A request for who else is at a place. The Stream goes through the sentences it was given: `keepers_work`."""
    names = w.others_at(place, but)
    return Request("RECALL", f"besides {but}, who is {place}?", f"= besides {but} {place}: {_list(names)}")


def asked_for(request: Request) -> tuple[str, str]:
    """The person and the place in a `keepers_request`."""
    but, place = request.task.removeprefix("besides ").removesuffix("?").split(", who is ")
    return but, place


def _list(names: list[str]) -> str:
    return ", ".join(names) or "nobody"


def numbered(sentences: list[str]) -> list[str]:
    """The lines of a focus set, numbered as the engine shows them, so that a Stream keeps its place."""
    return [f"{n} {sentence}" for n, sentence in enumerate(sentences, start=1)]


def keepers_work(w: World, sentences: list[str], place: str, but: str) -> Iterator[tuple[str, bool]]:
    """The work for a `keepers_request`: copies each line and adds the people found so far; the result comes last.

    Returned in stretches of text, each with whether something is decided there or only copied. In a note a name stands
    before its place, so no key leads back to it. A Stream that repeats the note has the name at hand when the place
    turns out to be the right one.
    """
    by_sentence = {f.sentence(style): f for f in w.facts for style in range(STYLES)}
    names: list[str] = []
    for n, sentence in enumerate(sentences, start=1):
        f = by_sentence.get(sentence)
        found = f is not None and f.place == place and f.person != but
        if f is not None and found and f.person not in names:
            names.append(f.person)
        yield f"{n}", True
        yield f" {sentence}", False
        yield f" yes: {_list(names)}\n" if found else " no\n", True
    yield f"= besides {but} {place}:", False
    yield f" {_list(names)}", True


def ask_who_else(w: World, rng: random.Random) -> Answer | None:
    shared = [f for f in w.facts if 1 <= len(w.others_at(f.place, f.person)) <= 3]
    if not shared or rng.random() < 0.12:
        shared = [f for f in w.facts if not w.others_at(f.place, f.person)]
    if not shared:
        return None
    f = rng.choice(shared)
    others = w.others_at(f.place, f.person)
    q = rng.choices(
        (
            f"Who else keeps things where {f.person} keeps {f.thing.many}?",
            f"Who else keeps things where {f.person} keeps the {f.thing.many}?",
        ),
        (4, 1),
    )[0]
    place = f.place
    end = f"Also there: {_list(others)}." if others else "Nobody else."
    return Answer(
        q,
        "who-else",
        end,
        f.quoted(),
        keepers_request(w, place, f.person),
        "Looking around.",
        ", ".join(others) if others else "nobody",
    )


@dataclass(frozen=True)
class Claim:
    """A claim about a fact: that its count, colour or place is `shown`."""

    fact: Fact
    field: str
    shown: str

    @property
    def value(self) -> str:
        """What the notes say."""
        return str(getattr(self.fact, self.field))

    @property
    def true(self) -> bool:
        return self.shown == self.value

    @property
    def text(self) -> str:
        if self.field == "count":
            return f"{self.fact.person} keeps {self.shown} {self.fact.thing.many}"
        return f"The {self.fact.name} are {self.shown}"

    @property
    def request(self) -> Request:
        """The note up to the claimed part, compared with the claim."""
        f = self.fact
        upto = {"count": f"{f.count}", "colour": f"{f.count}, {f.colour}", "place": f.details()}[self.field]
        if self.field == "count":
            work = arithmetic.same(f.count, int(self.shown))
        else:
            work = arithmetic.same_words(self.value, self.shown)
        return Request("CHECK", f"{f.name}: {upto} = {self.shown}", work)


def claim_about(w: World, rng: random.Random, words: Words) -> Claim:
    f = rng.choice(w.facts)
    field = rng.choices(("count", "colour", "place"), (3, 1, 1))[0]
    if rng.random() < 0.5:
        return Claim(f, field, str(getattr(f, field)))
    if field == "count":
        wrong = rng.choice([g.count for g in w.facts] + [_count(rng), f.count + rng.choice((-1, 1, 10))])
        return Claim(f, field, str(wrong if wrong != f.count and wrong > 0 else f.count + 2))
    if field == "colour":
        return Claim(f, field, rng.choice([c for c in COLOURS if c != f.colour]))
    others = [g.place for g in w.facts if g.place != f.place] or [words.place() + "s"]
    return Claim(f, field, rng.choice(others))


def ask_claim(w: World, rng: random.Random, words: Words) -> Answer:
    claim = claim_about(w, rng, words)
    q = rng.choices((f"True or false: {claim.text}.", f"Is it true that {claim.text}?"), (5, 1))[0]
    verdict = "true" if claim.true else "false"
    return Answer(q, "claim", f"That is {verdict}.", "", claim.request, "Checking.", verdict)


def ask_about(w: World, rng: random.Random) -> Answer:
    f = rng.choice(w.facts)
    name = f.name
    q = rng.choice(
        (
            f"Tell me about the {name}.",
            f"What do the notes say about the {name}?",
            f"What do you know about the {name}?",
        )
    )
    return Answer(
        q,
        "about",
        f"The {name}: {f.details()}.",
        "",
        Request("RECALL", name, f"= {name}: {f.details()}"),
        "Looking it up.",
        f.details(),
    )


def ask_missing(w: World, rng: random.Random, words: Words) -> Answer:
    known = {(f.person, f.thing) for f in w.facts}
    for _ in range(8):
        person = rng.choice([f.person for f in w.facts]) if rng.random() < 0.7 else words.name()
        thing = rng.choice([f.thing for f in w.facts]) if rng.random() < 0.5 else words.thing()
        if (person, thing) not in known:
            break
    else:
        person, thing = words.name() + "ux", words.thing()
    q = rng.choice(
        (
            f"How many {thing.many} does {person} have?",
            f"Where are the {thing.many} of {person}?",
            f"What colour are the {thing.many} of {person}?",
        )
    )
    return Answer(q, "missing", UNKNOWN, value=UNKNOWN)


_SMALL_TALK = (
    "Hello|Hi|Hey there|Good morning|Hello!|Hi!|How are you?|Who are you?|What are you?|What can you do?|"
    "Help|help|Thanks|Thank you|Bye|What is your name?|Tell me a joke|Write a poem|What should I ask?|"
    "Good evening|Are you a human?|test|ok|What is this?|hello there|yes|no|please"
).split("|")
_OPENERS = (
    "What is the capital of|Who wrote|Write a poem about|Explain|Translate|Why is|How do I cook|"
    "Tell me a story about|What is|Define|Sing about|Who invented|When was|Write code for|Summarize|"
    "Do you like|How far is|How old is|Give me a recipe for|I want|Let us talk about|Can you help me with|Can you|"
    "How do I|Where can I buy|Please|Why does|What do you think of|Is it good to|Should I|Who is|Where is|My"
).split("|")


def small_talk(rng: random.Random, words: Words) -> str:
    """A user turn that is not about notes."""
    kind = rng.random()
    if kind < 0.35:
        text = rng.choice(_SMALL_TALK)
    elif kind < 0.45:
        text = " ".join(made_up(rng) for _ in range(rng.randint(1, 5)))
    elif kind < 0.5:
        text = f"{rng.randint(0, 99)} {rng.choice('+-*')} {rng.randint(0, 99)}"
    else:
        filler = [
            rng.choice(
                (words.name(), words.thing().many, words.thing().one, words.colour(), "the " + words.thing().one)
            )
            for _ in range(rng.randint(1, 4))
        ]
        text = f"{rng.choice(_OPENERS)} {' '.join(filler)}"
    if rng.random() < 0.2:
        text = text.lower()
    return text + rng.choice(("", "", "?", ".", "!")) if text[-1].isalnum() else text
