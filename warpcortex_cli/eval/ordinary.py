"""Ordinary questions and small talk with nothing to compute, though many contain numbers: tools must not interfere.

A right answer contains one of a question's words; for small talk any answer will do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_FACTS = """
What is the capital of France? | paris
What is the capital of Italy? | rome
What is the capital of Japan? | tokyo
What is the capital of Germany? | berlin
What is the capital of Spain? | madrid
What is the capital of Egypt? | cairo
What is the capital of Canada? | ottawa
What is the capital of Russia? | moscow
What is the largest planet of the solar system? | jupiter
Which planet do we live on? | earth
Which planet is called the red planet? | mars
What is the chemical formula of water? | h2o h₂o
What gas do plants take in from the air? | carbon co2
What gas do we need to breathe? | oxygen
Who wrote Romeo and Juliet? | shakespeare
Who painted the Mona Lisa? | vinci leonardo
Who developed the theory of relativity? | einstein
Who was the first president of the United States? | washington
Who walked on the moon first? | armstrong
In which country is the Eiffel Tower? | france
On which continent is Kenya? | africa
On which continent is Brazil? | south
What is the longest river in Africa? | nile
What is the highest mountain in the world? | everest
What ocean lies between Europe and America? | atlantic
What language is spoken in Brazil? | portuguese
What language is spoken in Mexico? | spanish
What currency is used in Japan? | yen
What do bees make? | honey
What do cows drink? | water
What color is the sky on a clear day? | blue
What color is grass? | green
What color do you get from blue and yellow? | green
How many days are in a week? | seven 7
How many months are in a year? | twelve 12
How many legs does a spider have? | eight 8
How many sides does a triangle have? | three 3
How many continents are there? | seven 7
How many hours are in a day? | 24 twenty-four
How many players are on a soccer team on the field? | 11 eleven
What is the opposite of hot? | cold
What is the opposite of up? | down
What is the plural of mouse? | mice
What is the past tense of go? | went
What do you call a baby dog? | puppy pup
What do you call a baby cat? | kitten
Which animal is known as the king of the jungle? | lion
Which animal has a trunk? | elephant
Which season comes after winter? | spring
Which day comes after Monday? | tuesday
Which month comes before July? | june
What do we call frozen water? | ice
What organ pumps blood? | heart
What is the center of an atom called? | nucleus
What force keeps us on the ground? | gravity
What star is nearest to the Earth? | sun
What do you use to write on a blackboard? | chalk
What do you use to cut paper? | scissors
In what year did World War II end? | 1945
In what year did the Titanic sink? | 1912
In which year did people first land on the moon, 1959 or 1969? | 1969
Who was president of the USA in 2010? | obama
What does 24/7 mean? | day hour time
What happened on 9/11 in 2001? | attack terror tower
What does HTML stand for? | hypertext
What does CPU stand for? | central
What does USB stand for? | universal
What is H2SO4? | sulfuric sulphuric
What is the boiling point of water in degrees Celsius? | 100
At what temperature does water freeze in Celsius? | 0 zero
"""
_CHATS = """
Hello!
Hi, how are you today?
Good morning. Did you sleep well?
Thanks a lot for your help.
Can you tell me a joke?
Tell me a story about a fox in three sentences.
I feel a bit sad today.
What should I cook tonight?
Recommend me a book for the weekend.
What is your favorite color?
Give me 3 tips for sleeping better.
Write a haiku about the sea.
How can I learn to play the guitar?
Explain photosynthesis in simple words.
What is the difference between a frog and a toad?
Why is the sky blue?
I have 2 cats and a dog. What could I call a new puppy?
My train leaves at 9:45. What should I not forget to pack?
We are 4 people and want to play cards. Which game do you recommend?
Translate "good night" into Spanish.
Is it better to study in the morning or at night?
Write one sentence that describes autumn.
How do I say sorry to a friend?
What are the benefits of walking 30 minutes a day?
I am 35 years old and want to start running. How do I begin?
Summarize: The committee met on 14 March. Two members were absent. The next meeting is on 11 April.
My phone number ends in 555-1234, is that lucky?
Which is older, the 1990s or the 2000s?
Tell me something about the years 1914-1918.
Goodbye!
"""


@dataclass(frozen=True)
class Ordinary:
    """A question, and the words of which a right answer contains one; without words any answer is right."""

    question: str
    words: tuple[str, ...]


def questions(n: int, seed: int) -> list[Ordinary]:
    """`n` of the 100, shuffled by the seed."""
    facts = [line.split(" | ") for line in _FACTS.strip().splitlines()]
    found = [Ordinary(question, tuple(words.split())) for question, words in facts]
    found += [Ordinary(line, ()) for line in _CHATS.strip().splitlines()]
    random.Random(f"ordinary {seed}").shuffle(found)
    return found[:n]


def is_right(case: Ordinary, reply: str) -> bool:
    """Whether one of its words is in the reply; for small talk, whether it is more than a sign or an equation."""
    text = reply.lower()
    if case.words:
        return any(word in text for word in case.words)
    return sum(c.isalpha() for c in text) >= 2
