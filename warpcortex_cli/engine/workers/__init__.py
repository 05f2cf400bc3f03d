"""The kinds of workers, one file each. `base.py` is the interface."""

from __future__ import annotations

from warpcortex_cli.engine.workers.base import Worker
from warpcortex_cli.engine.workers.calculator import CalculatorWorker
from warpcortex_cli.engine.workers.command import CommandWorker
from warpcortex_cli.engine.workers.mcp import McpWorker
from warpcortex_cli.engine.workers.model import ModelWorker
from warpcortex_cli.engine.workers.search import SearchWorker

WORKERS: dict[str, type[Worker]] = {  # by the name that `Role.work` says
    "model": ModelWorker,
    "calculator": CalculatorWorker,
    "search": SearchWorker,
    "command": CommandWorker,
    "mcp": McpWorker,
}
