"""The words of pocket's world: names, things, colours and places, some common, some invented on the spot.

A model of this size copies an unseen name only if most names in its training were unseen too. So three of four names
are random syllables. `Words(split="held-out")` draws from lists that training never uses.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

NAMES = """Mara Otto Lena Paul Nina Karl Ida Emil Rosa Hugo Vera Finn Olga Jonas Clara Felix Greta Oscar
Lucia Marco Elsa Anton Mila Victor Sofia Theo Alma Boris Carla David Edith Frank Gina Henry Irene Jakob Kira
Leo Maya Noah Petra Quinn Ruth Simon Tina Ursula Walter Xenia Yusuf Zoe Amir Bella Cyrus Dora Elif Farid
Gemma Hassan Ines Juan Keiko Liam Mina Nora Omar Pia Rafael Sana Tariq Uma Viola Wanda Yara Zeno Ada Bruno
Cora Dario Ella Fritz Gustav Helga Ivan Julia Konrad Linda Max Nadia Oleg Paula Ralf Sara Tom Udo Vincent
Wilma Anna Ben Chloe Dan Eve Fred Grace Harry Isla Jack Kate Luke Molly Ned Olive Peter Rose Sam Tess Violet
Will Alice Bob Carol Eric James Mary John Susan Peggy Victoria Martin Hannah""".split()
HELD_OUT_NAMES = "Tilda Rufus Ingrid Casper Odette Silas Freya Magnus Daphne Lorenz Imke Tobias Selma Arvid".split()

THINGS = """rope lamp book chair basket candle hammer bottle bucket carpet drum feather glove hat jar kettle
ladder mirror needle pillow ribbon saddle table vase wheel coin stamp plate spoon fork cup bowl barrel
anchor apple pear lemon nut seed stone shell pearl button bell flute key lock nail plank tile brick blanket
coat boot shirt scarf pen pencil map clock doll kite ball card cap crate bag sack net hook oar sail tent rug
mug pot pan tray egg cheese melon plum carrot onion pumpkin flower tulip poster magnet marble puppet tool
engine cable battery violin trumpet whistle ticket letter notebook""".split()
HELD_OUT_THINGS = "lantern goblet trowel cushion compass thimble acorn pebble banner chisel turnip medal".split()

COLOURS = "red blue green brown black white yellow grey orange purple pink silver golden violet beige turquoise".split()
ADJECTIVES = """old new red big small dark quiet north south upper lower stone white round narrow broken
warm cold dusty green long blue east west hidden empty wooden tall little great""".split()
PLACES = """mill barn cellar attic kitchen garden tower shed hall house cabin stable harbour market chapel
library garage workshop bakery school station tent boat cave castle office pantry yard loft inn forge bridge
well museum studio lighthouse store temple park room closet drawer cupboard chest trunk wagon""".split()

_ONSETS = "b c d f g h j k l m n p r s t v w z br cr dr fr gr kr pr tr bl cl fl gl pl sl st sk sp sh ch th qu".split()
_VOWELS = "a e i o u a e i o a e o ai ea ee ia ou oo y".split()
_CODAS = ["", "", "", "", "n", "r", "l", "m", "k", "t", "nd", "rt", "ck", "lf", "x", "d", "p", "th", "ng", "b", "g"]


def made_up(rng: random.Random) -> str:
    """A lower-case word of one to three random syllables."""
    syllables = rng.choices((1, 2, 3), (2, 7, 2))[0]
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))
    if rng.random() < 0.15:
        word = rng.choice("aeiou") + word
    while len(word) < 3:
        word += rng.choice("aeioun")
    return word


def chopped(rng: random.Random) -> str:
    """The beginning of one common word and the end of another, or random letters.

    Syllables need few of the tokens. A real name that training never saw may need any of them.
    """
    if rng.random() < 0.2:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 6)))
    head, end = (rng.choice(rng.choice((NAMES, THINGS, COLOURS, ADJECTIVES, PLACES))).lower() for _ in range(2))
    return head[: rng.randint(2, 5)] + end[-rng.randint(2, 4) :]


@dataclass(frozen=True)
class Thing:
    """A countable thing in singular and plural."""

    one: str
    many: str


def thing_from(word: str) -> Thing:
    if word.endswith(("s", "x", "ch", "sh", "z")):
        return Thing(word, word + "es")
    return Thing(word, word + "s")


class Words:
    """Draws words. The split "train" never yields a held-out word; "held-out" yields only those and invented ones."""

    def __init__(
        self, rng: random.Random, split: str = "train", made_up_share: float = 0.6, chopped_share: float = 0.0
    ) -> None:
        self.rng = rng
        self.chopped_share = chopped_share
        held_out = split == "held-out"
        self.names = HELD_OUT_NAMES if held_out else NAMES
        self.things = HELD_OUT_THINGS if held_out else THINGS
        self.made_up_share = made_up_share

    def name(self) -> str:
        if self.rng.random() < self.made_up_share:
            return self._made_up().capitalize()
        return self.rng.choice(self.names)

    def thing(self) -> Thing:
        if self.rng.random() < self.made_up_share:
            return thing_from(self._made_up())
        return thing_from(self.rng.choice(self.things))

    def _made_up(self) -> str:
        if self.chopped_share and self.rng.random() < self.chopped_share:
            return chopped(self.rng)
        return made_up(self.rng)

    def colour(self) -> str:
        return made_up(self.rng) if self.rng.random() < 0.05 else self.rng.choice(COLOURS)

    def place(self) -> str:
        rng = self.rng
        noun = made_up(rng) if rng.random() < 0.1 else rng.choice(PLACES)
        adjective = made_up(rng) if rng.random() < 0.1 else rng.choice(ADJECTIVES)
        preposition = rng.choices(("in", "at", "behind", "under", "near", "on"), (12, 2, 1, 1, 1, 1))[0]
        return f"{preposition} the {noun}" if rng.random() < 0.12 else f"{preposition} the {adjective} {noun}"
