"""The number of threads follows the load of other programs, on a simulated machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest

from warpcortex_cli.prism import crowding
from warpcortex_cli.prism.crowding import Crowd
from warpcortex_cli.prism.prism import Prism, Row


class Machine:
    """Cores with other programs; our threads are on the last cores, as far from these as possible.

    Attributes:
        busy: neighbours on each core.
        threads: of ours.
    """

    def __init__(self, busy: list[int], threads: int | None = None) -> None:
        self.busy, self.now = busy, 100.0
        self.threads = threads or len(busy)
        self.most = self.threads
        self.times: dict[str, tuple[float, float]] = {str(n): (5.0, 1.0) for n in range(self.threads)}
        self.times["idle"] = (0.5, 0.5)
        self.crowd = Crowd(lambda: dict(self.times), lambda: self.now, self.use)

    def use(self, threads: int) -> None:
        assert 1 <= threads <= self.most and threads != self.threads
        self.threads = threads

    def run(self, seconds: float, step: float = 0.02) -> list[int]:
        """Runs steps for some seconds; returns the number of threads of each."""
        used = []
        for _ in range(round(seconds / step)):
            self.crowd.look(self.threads)
            used.append(self.threads)
            free = sorted(self.busy)
            for thread in range(self.threads):
                part = step / (1 + free[thread])
                ran, waited = self.times[str(thread)]
                self.times[str(thread)] = ran + part, waited + step - part
            self.now += step
            self.crowd.over()
        return used


def test_alone_all_threads_compute() -> None:
    assert set(Machine([0, 0]).run(5)) == {2}


@pytest.mark.parametrize(("busy", "wanted"), [([1, 1], 1), ([0, 1], 1), ([0, 0, 0, 1], 3), ([0, 0, 2, 1], 2), ([3], 1)])
def test_a_shared_core_is_given_up_soon(busy: list[int], wanted: int) -> None:
    machine = Machine(busy)
    assert machine.run(1.0)[-1] == wanted
    used = machine.run(60)
    assert used.count(wanted) > 0.93 * len(used)  # another one is tried seldom


def test_a_core_is_given_up_where_each_step_takes_seconds() -> None:
    """As it does where threads wait for one whose core has others on it."""
    assert Machine([2, 2]).run(6.0, step=2.0) == [2, 1, 1]


def test_threads_return_when_other_programs_end() -> None:
    machine = Machine([1, 1])
    machine.run(3)
    machine.busy = [0, 0]
    assert machine.run(2)[-1] == 2
    assert set(machine.run(20)) == {2}


def test_each_failed_attempt_to_add_a_thread_doubles_the_wait() -> None:
    machine = Machine([0, 1])
    machine.run(1)
    used = machine.run(40)
    trials = [i * 0.02 for i, (a, b) in enumerate(pairwise(used)) if b > a]
    apart = [b - a for a, b in pairwise(trials)]
    assert apart == sorted(apart) and apart[-1] > 2 * apart[0]


def test_time_without_steps_does_not_count() -> None:
    machine = Machine([0, 0])
    machine.run(1)
    for _ in range(5):
        machine.now += 30.0  # in which other threads of ours had the cores
        machine.times = {name: (ran + 5, waited + 25) for name, (ran, waited) in machine.times.items()}
        assert set(machine.run(0.5)) == {2}


def test_a_thread_count_set_elsewhere_is_the_maximum() -> None:
    machine = Machine([0, 0, 0, 0])
    machine.run(1)
    machine.threads = machine.most = 2
    assert set(machine.run(5)) == {2}


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux counts them")
def test_a_thread_that_waits_for_a_core_is_seen() -> None:
    code = (
        "import os, time; from warpcortex_cli.prism.crowding import thread_times as times\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); pid = os.fork()\n"
        "end = time.monotonic() + 0.5\n"
        "while time.monotonic() < end: pass\n"
        "if pid: os.waitpid(pid, 0); print(sum(waited for _, waited in times().values()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if not crowding.thread_times():
        pytest.skip("this kernel does not count")
    assert float(done.stdout) > 0.05


def test_openmp_says_whether_they_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowding, "thread_times", lambda: {"1": (1.0, 0.0)})
    for given, wanted in (("", True), ("true", True), ("false", False), (" FALSE", False)):
        monkeypatch.setenv("OMP_DYNAMIC", given)
        assert crowding.follows() == wanted
    monkeypatch.setenv("OMP_DYNAMIC", "")
    monkeypatch.setattr(crowding, "thread_times", dict)
    assert not crowding.follows()


def test_only_what_kernels_compute_follows(make_prism: Callable[[str], Prism], monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own products may be summed up otherwise by another number of threads."""
    asked: list[int] = []
    monkeypatch.setattr(crowding, "look", lambda: asked.append(1))
    prism = make_prism("qwen2")
    prism.forward([Row([5], [0], prism.new_tail(1))])
    assert not asked
