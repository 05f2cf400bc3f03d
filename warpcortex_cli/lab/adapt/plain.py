"""Plain conversations with nothing to compute: our own prompts, answered by the untuned model itself.

They keep an adapter from changing how the model answers ordinary questions (self-distillation). None of the prompts is
in `eval/ordinary.py`; every third contains numbers, but nothing to compute.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.stepper import Stepper
from warpcortex_cli.eval.kept import Kept
from warpcortex_cli.events import RiverFinished, RiverText
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile

_TOGETHER = 24  # conversations in a step
MOST_TOKENS = 64  # of a reply; a longer one is cut, and its end is not learnt

_FILLED: tuple[tuple[str, str], ...] = (
    (
        "What is the capital of {}?",
        "Portugal|Greece|Norway|Sweden|Poland|Turkey|India|China|Australia|Argentina|Peru"
        "|Kenya|Morocco|Ireland|Austria|Hungary|Thailand|Vietnam|Cuba|Finland|Denmark|Belgium|the Netherlands|Mexico",
    ),
    (
        "Who wrote {}?",
        "Hamlet|Moby-Dick|War and Peace|Don Quixote|The Odyssey|Pride and Prejudice|Frankenstein"
        "|Animal Farm|The Hobbit|Oliver Twist|Alice in Wonderland|1984|Fahrenheit 451|The Three Musketeers",
    ),
    (
        "What is {}?",
        "a volcano|gravity|a glacier|inflation|an atom|a noun|democracy|a black hole|evaporation|a metaphor"
        "|an ecosystem|a prime minister|a comet|yeast|a virus|an adjective|philosophy|a satellite|a compass|a fossil"
        "|magnetism|a republic|a rainbow|oxygen|a sonnet|compost|an algorithm|a tsunami|an eclipse|a peninsula",
    ),
    ("What is the opposite of {}?", "big|fast|happy|early|rich|light|full|strong|loud|empty|brave|old|dry|narrow"),
    ("What is the plural of {}?", "child|tooth|foot|leaf|knife|goose|city|sheep|box|potato|woman|wolf|fish"),
    ("What is the past tense of {}?", "run|eat|write|see|take|buy|sing|swim|think|bring|give|fly"),
    ("On which continent is {}?", "Egypt|India|France|Canada|Chile|Nigeria|Japan|Mexico|Norway|Peru|China"),
    ("What language do people speak in {}?", "Germany|France|Egypt|Japan|China|Italy|Argentina|Portugal|Russia"),
    ("What color is {}?", "a lemon|snow|a ripe tomato|coal|a carrot|a frog|an eggplant|chocolate|the sun|blood"),
    ("Where do {} live?", "penguins|polar bears|kangaroos|camels|lions|pandas|sharks|beavers|owls|crocodiles"),
    ("What do {} eat?", "rabbits|pandas|frogs|horses|spiders|whales|owls|squirrels|lions|snails|cats"),
    (
        "Why do {}?",
        "leaves fall in autumn|cats purr|we sleep|birds sing|people laugh|onions make us cry|ships float"
        "|we dream|dogs bark|volcanoes erupt|stars twinkle|bees dance|people yawn",
    ),
    (
        "How do I {}?",
        "make pancakes|boil an egg|tie a tie|write a letter|clean a window|learn to swim|plant tomatoes"
        "|fix a flat tire|brew good tea|remove a stain|write a cover letter|train a puppy|bake bread|make new friends"
        "|stop worrying|save money|keep plants alive|get better at chess|fall asleep faster|memorize a poem",
    ),
    (
        "Tell me something about {}.",
        "elephants|the Roman Empire|the moon|coffee|jazz|Paris|dolphins|the Sahara|chess"
        "|the ocean|honey|dinosaurs|tea|the Middle Ages|Leonardo da Vinci|trains|bamboo|pyramids|bicycles|soccer",
    ),
    (
        "Explain {} in simple words.",
        "electricity|the water cycle|the internet|evolution|the seasons|a vaccine|taxes"
        "|how planes fly|how a bill becomes law|digestion|global warming|the heart|a computer|the tides",
    ),
    ("Write a short poem about {}.", "the rain|winter|my cat|a river|friendship|the stars|spring|a lighthouse|bread"),
    ("Write one sentence about {}.", "summer|a dog|the city at night|music|an old house|a storm|a garden|hope"),
    (
        "Give me some tips for {}.",
        "a job interview|a long flight|better posture|a first date|learning French"
        "|public speaking|a camping trip|running a small shop|staying focused|a tidy kitchen",
    ),
    ('Translate "{}" into Spanish.', "thank you|good morning|see you tomorrow|I am hungry|where is the station"),
    ('Translate "{}" into French.', "hello|please|the house is big|good evening|I love music"),
    (
        "Which is better, {}?",
        "tea or coffee|a cat or a dog|the city or the country|paper books or e-books"
        "|to walk or to cycle|to rent or to buy|winter or summer",
    ),
    (
        "What should I know about {}?",
        "living in Japan|keeping bees|buying a used car|adopting a dog|high blood pressure"
        "|planting a tree|first aid|a visit to Rome|mushrooms|sunscreen",
    ),
    (
        "Correct this sentence: {}",
        "she go to school every day.|I has two brother.|they was late yesterday."
        "|me like ice cream.|he don't know the answer.|we is happy.",
    ),
    ("Which planet {}?", "has rings|is closest to the sun|is the hottest|is the smallest|is blue"),
    ("Who was {}?", "Cleopatra|Napoleon|Marie Curie|Mozart|Gandhi|Columbus|Isaac Newton|Julius Caesar|Galileo"),
)
_ALONE = """
Hey there!
Good evening.
Hi! Nice to meet you.
Hello, who are you?
What can you do for me?
What is your name?
Thank you, that was helpful.
Great, thanks!
See you later.
Have a nice day!
I am bored. Any ideas?
I am so happy today!
I feel tired and cannot focus.
Tell me a fun fact.
Tell me a short story about a brave mouse.
Make me laugh.
What do you think about rainy days?
Can you help me with my homework?
Do you like music?
Suggest a name for my boat.
Suggest a movie for a rainy evening.
I had a fight with my sister. What should I do?
My cat does not eat. What could be the reason?
I want to surprise my mother on her birthday.
What is a good breakfast?
How was your day?
Ok.
Yes, please go on.
I do not understand. Can you say it in other words?
I was born in 1987. What music was popular then?
My flight leaves at 7:30 in the morning. When should I get up?
I have 3 children and little time. How do I stay fit?
We are 6 friends and need a name for our band.
My dog is 12 years old. Is that old for a dog?
I live on the 4th floor and have 2 bicycles. Where could I keep them?
What happened in 1789?
What happened in 1969?
Who was president of the USA in 1963?
When did World War I begin?
In what year did the Berlin Wall fall?
In which year was the first iPhone sold, 2003 or 2007?
How many days are in February?
How many letters are in the English alphabet?
How many planets are in the solar system?
How many strings does a violin have?
How many wheels does a bicycle have?
How many seconds are in a minute?
How many legs does an ant have?
How many teeth does an adult have?
How many states are in the USA?
How many colors are in a rainbow?
How many minutes does it take to boil an egg?
How many hours should a child sleep?
What does 9 to 5 mean?
What is special about the number 7?
What is Area 51?
What is a 401k?
What is the 4th of July?
What is 5G?
What is a V8 engine?
What is MP3?
What is H2O2?
What is CO2?
What is vitamin B12?
What is Windows 10?
What does the saying "24 hours a day, 7 days a week" mean?
What was the Apollo 11 mission?
What was the Boeing 747?
Who was Louis XIV?
What does the 1st amendment say?
Tell me about the 1960s.
Tell me something about the year 2000.
Give me 5 ideas for a birthday party.
Give me 3 names for a goldfish.
Name 4 vegetables.
Name 2 countries in Asia.
List 5 animals that live in the sea.
List 3 reasons to learn a language.
Write 2 sentences about autumn leaves.
Write a poem of 4 lines about snow.
Tell me 10 words that rhyme with cat.
I am 16 and want to earn some money. What can I do?
I am 70 years old and want to learn the piano. Is it too late?
I have 20 minutes for lunch. What can I cook?
I have a meeting at 3 pm and another at 5 pm. How do I keep my energy?
It is 35 degrees outside. What should I drink?
Our house was built in 1920. What should we look at before we renovate it?
My room is small, and I have 400 books. How do I keep them in order?
My grandmother turns 90 next week. What could I give her?
My brother is 6 feet tall and plays basketball. What else could he try?
The recipe says 200 grams of flour and 3 eggs. What could I bake with that?
I read 2 newspapers every day. Is that too much?
Summarize: The shop opened in 1998. It sells shoes and bags. Its 12 workers come from the village.
Summarize: On 3 May the bridge was closed. Repairs take 6 weeks. Buses use the old road.
Summarize: The team won 3 to 1. Two goals fell in the first 10 minutes. The crowd of 8,000 was happy.
Is 13 an unlucky number?
Is a size 42 shoe big?
Is 18 degrees warm or cold?
Which came first, the year 1066 or the year 1492?
Which is heavier, iron or wood?
What is the difference between 2D and 3D?
What is the difference between a mile and a kilometer?
What is the meaning of 50/50?
Read me this number: 555-0199.
My address is 14 Park Lane. How do I write it on an envelope?
The code of my bike lock was 4711. How do I choose a better one?
Flight BA 256 was late. What are my rights?
I got 2 tickets for the concert on June 21. What should I wear?
Play a game with me.
What is the best way to learn 10 new words a day?
Do cats have 9 lives?
What are the 3 states of matter?
What are the 5 senses?
Who were the 12 apostles?
Who are the 7 dwarfs?
What are the 4 seasons?
Name the 5 Great Lakes.
What is the 10th month of the year?
What is a 3-course meal?
What is an 8-hour shift?
"""


def prompts(seed: int) -> list[str]:
    """All prompts, shuffled by the seed."""
    found = [form.format(word) for form, words in _FILLED for word in words.split("|")]
    found += _ALONE.strip().splitlines()
    random.Random(f"plain {seed}").shuffle(found)
    return found


def answered(
    prism: Prism,
    profile: Profile,
    seed: int,
    keep: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[str, str, bool]]:
    """Each prompt with the reply of the model alone, and whether the reply is complete.

    Args:
        profile: used without its roles, prompt and examples, only for its sampling.
        keep: a file of replies, from which an interrupted run resumes.
    """
    river = profile.river.model_copy(update={"prompt": "", "examples": (), "max_tokens": MOST_TOKENS})
    alone = profile.model_copy(update={"roles": (), "river": river})
    file = Kept(keep, "prompt")
    held = {line["prompt"]: line for line in file.lines}
    asked = prompts(seed)
    missing = [prompt for prompt in asked if prompt not in held]
    for start in range(0, len(missing), _TOGETHER):
        some = missing[start : start + _TOGETHER]
        for prompt, (text, ended) in zip(some, _replies(prism, alone, seed, some), strict=True):
            held[prompt] = {"prompt": prompt, "reply": text, "ended": ended}
            file.add(held[prompt])
        progress(len(held), len(asked))
    for prompt in asked:
        one = held[prompt]
        if one["reply"].strip():
            yield prompt, one["reply"], one["ended"]


def _replies(prism: Prism, alone: Profile, seed: int, prompts: list[str]) -> list[tuple[str, bool]]:
    """Replies to prompts, each in its own conversation, all in the same steps."""
    stepper = Stepper(prism)
    sessions = [Session(prism, alone, seed=seed, stepper=stepper) for _ in prompts]
    replies = [session.send(prompt) for session, prompt in zip(sessions, prompts, strict=True)]
    texts, ended = [""] * len(prompts), [False] * len(prompts)
    going = set(range(len(prompts)))
    while going:
        for n in sorted(going):
            event = next(replies[n], None)
            if event is None:
                going.remove(n)
            elif isinstance(event, RiverText):
                texts[n] += event.text
            elif isinstance(event, RiverFinished):
                ended[n] = event.reason == "stop"
    for session in sessions:
        session.close()
    return list(zip(texts, ended, strict=True))
