"""`work: calculator`: exact results without the model. A task in words is parsed as an expression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from warpcortex_cli.engine.brief import Brief, Thought
from warpcortex_cli.engine.workers.base import Work, Worker, WorkError, picked
from warpcortex_cli.profile import Role
from warpcortex_cli.work.calculator import calculate
from warpcortex_cli.work.quantities import CalculationError
from warpcortex_cli.work.words import read


class CalculatorWorker(Worker):
    """Makes calculations, which share nothing."""

    exact: ClassVar[bool] = True

    def wants(self, role: Role, task: str, groups: Mapping[str, str]) -> bool:
        return read(task, groups.get("notes", "")) is not None

    def take(self, brief: Brief) -> Calculating:
        return Calculating(brief)


class Calculating(Work):
    """One calculation, done in `start`: it takes less than a millisecond or is refused."""

    def __init__(self, brief: Brief) -> None:
        self._brief = brief
        self._written = ""

    def start(self) -> None:
        """Computes.

        Raises:
            WorkError: there is no result, with the reason.
        """
        task = self._brief.task
        found = read(task, self._brief.groups.get("notes", "")) if self._brief.role.starts != "trigger" else None
        if found is not None:
            self._written = found.equation
            return
        try:
            self._written = f"{task} = {calculate(task).text}"
        except CalculationError as error:
            said = read(task)
            if said is None:
                raise WorkError(str(error)) from None
            self._written = said.equation

    def poll(self) -> Thought:
        """Returns `12 * 7 = 84`, or the part that the role's `thought` picks."""
        text = picked(self._brief.role, self._written)
        return Thought(text, "it is exact" if text else "its role picks no thought from it")

    def close(self) -> None:
        pass

    @property
    def text(self) -> str:
        return self._written
