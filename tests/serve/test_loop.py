"""The thread that steps: bounded outboxes, replies that pause and go on, and what is kept between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.serve.conftest import QUESTION, ROPES
from warpcortex_cli.engine.contents import Said
from warpcortex_cli.events import RiverFinished
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile
from warpcortex_cli.serve.faults import BusyError
from warpcortex_cli.serve.job import Ask, Failed, Item, Job, Outbox, Over
from warpcortex_cli.serve.limits import Limits
from warpcortex_cli.serve.loop import Loop


@pytest.fixture
def loop(pocket: tuple[Prism, Profile], request: pytest.FixtureRequest) -> Iterator[Loop]:
    """The parameter is its patience, in seconds."""
    patience = getattr(request, "param", 600.0)
    made = Loop(*pocket, Limits(replies=2, waiting=2, patience=patience, kept=4 << 20))
    made.start()
    yield made
    made.stop()


def job_of(loop: Loop, text: str = QUESTION, size: int = 1000) -> Job:
    return Job(Ask(loop.profile, (Said("user", text),)), Outbox(size))


async def read(job: Job) -> list[Item]:
    found: list[Item] = []
    while not any(isinstance(item, Over) for item in found):
        found += [item for _, item in await job.outbox.take()]
    return found


def test_a_full_outbox_pauses_its_reply_and_no_other(loop: Loop) -> None:
    async def run() -> tuple[list[Item], int, list[Item]]:
        slow, quick = job_of(loop, size=4), job_of(loop, ROPES)
        loop.submit([slow])
        while slow.paused is None:
            await asyncio.sleep(0.005)
        waiting = len(slow.outbox._items)
        loop.submit([quick])
        there = await read(quick)
        return await read(slow), waiting, there

    found, waiting, there = asyncio.run(run())
    assert waiting < 16 and isinstance(there[-2], RiverFinished)
    assert [e.seq for e in found[:-1]] == list(range(len(found) - 1))  # type: ignore[union-attr]  # nothing is lost
    assert isinstance(found[-2], RiverFinished) and found[-2].reason == "stop"


@pytest.mark.parametrize("loop", [0.05], indirect=True)
def test_who_never_reads_is_cut_off_and_who_comes_too_late_turned_away(loop: Loop) -> None:
    async def run() -> list[Item]:
        slow = [job_of(loop, size=4) for _ in range(4)]
        for job in slow:
            loop.submit([job])
        with pytest.raises(BusyError, match="too many requests"):
            loop.submit([job_of(loop)])
        while not all(job.over for job in slow):  # two write, pause and are cut off; then the other two
            await asyncio.sleep(0.01)
        assert all(job.session is None for job in slow) and loop.counters.cancelled == 4
        good = job_of(loop)
        loop.submit([good])
        return await read(good)

    assert isinstance(asyncio.run(run())[-2], RiverFinished)  # its outbox has room for all of it


def test_a_reply_that_fails_or_takes_too_long_is_nobody_elses_fault(loop: Loop, monkeypatch) -> None:
    async def run() -> tuple[list[Item], list[Item]]:
        bad, good = job_of(loop), job_of(loop, ROPES)
        bad.asked -= loop.limits.seconds
        loop.submit([bad])
        loop.submit([good])
        return await read(bad), await read(good)

    bad, good = asyncio.run(run())
    assert isinstance(bad[-2], Failed) and "longer than 600 seconds" in str(bad[-2].error)
    assert isinstance(good[-2], RiverFinished)


def test_a_fault_in_a_step_ends_replies_and_not_the_server(loop: Loop, monkeypatch) -> None:
    async def run() -> tuple[list[Item], list[Item]]:
        bad, step = job_of(loop), loop.stepper.step

        def broken() -> bool:
            monkeypatch.setattr(loop.stepper, "step", step)
            raise MemoryError

        monkeypatch.setattr(loop.stepper, "step", broken)
        loop.submit([bad])
        found = await read(bad)
        good = job_of(loop)
        loop.submit([good])
        return found, await read(good)

    bad, good = asyncio.run(run())
    assert isinstance(bad[-2], Failed) and "not enough memory" in str(bad[-2].error)
    assert isinstance(good[-2], RiverFinished) and loop.alive


def test_what_is_kept_is_bounded_and_what_was_used_last_stays(pocket: tuple[Prism, Profile]) -> None:
    prism, profile = pocket
    budget = 3 << 20
    loop = Loop(prism, profile, Limits(kept=budget))
    loop.start()

    async def run() -> None:
        for number in range(6):
            job = job_of(loop, f"Mara keeps ropes: 4{number}, brown, in the old mill.\n\n{ROPES}")
            loop.submit([job])
            await read(job)
            assert loop.kept_bytes <= budget

    asyncio.run(run())
    assert 1 <= len(loop.shelf) < 6
    assert "45" in loop.shelf._kept[-1].session.turns[0].text
    loop.stop()
    assert len(loop.shelf) == 0 and not loop.stepper._conversations
