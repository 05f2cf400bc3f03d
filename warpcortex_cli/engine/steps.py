"""Replies as generators, so that somebody can follow many of them while one loop makes the steps of all."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from warpcortex_cli.engine.river import River
from warpcortex_cli.engine.stepper import Stepper
from warpcortex_cli.events import Event

# Whenever it needs a step it yields the events so far, and is sent whether anybody had something to do in that step.
Steps = Generator[list[Event], bool, None]


def driven(steps: Steps, stepper: Stepper, river: River) -> Generator[list[Event], None, None]:
    """Makes the steps that one reply, or a reading, of this River needs. Yields the events before each."""
    with closing(steps):
        fresh = next(steps, None)
        while fresh is not None:
            yield fresh
            stepped = stepper.step()
            if not stepped and not river.idle:
                stepper.rest()
            try:
                fresh = steps.send(stepped)
            except StopIteration:
                return
