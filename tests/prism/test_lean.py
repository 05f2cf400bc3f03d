"""A start skips imports that it does not need; code that needs them gets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from warpcortex_cli.prism import kept, lean

UNUSED = (
    *("torch._dynamo", "torch._inductor", "sympy", "torch.distributed.tensor", "torch.distributed.fsdp"),
    *("accelerate", "torchao", "prompt_toolkit"),
)


def run(code: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


ASK = f"""
import sys
from typer.testing import CliRunner
from warpcortex_cli.cli.app import app
done = CliRunner().invoke(app, ["ask", "Where are the ropes of Mara?", "--notes", sys.argv[1], "-m", "pocket"])
assert done.exit_code == 0 and "mill" in done.stdout, done.output
print([name for name in {UNUSED!r} if name in sys.modules])
import torch
import transformers.masking_utils as masks
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model
print("Args:" in str(Qwen2Model.forward.__doc__), Qwen2Model.forward.__name__)
real = torch._dynamo.OptimizedModule  # the compiler is available on demand
print(type(masks.TransformGetItemToIndex()).__module__, "_StandIn" not in str(sys.modules["torch._dynamo"]))
print(torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)).item(), torch.distributed.is_available())
"""


def test_a_reply_needs_neither_a_compiler_nor_other_machines(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("Mara keeps ropes: 47, brown, in the old mill.\n")
    assert run(ASK, str(notes)).splitlines() == [
        "[]",
        "False forward",
        "torch._dynamo._trace_wrapped_higher_order_op True",
        "1.0 True",
    ]


MISSED = """
import sys
from warpcortex_cli.prism.lean import lean
with lean() as found:
    import torch
    marked = torch._dynamo.whatever(len)
    assert marked is len and torch.compiler.disable(len) is len and torch.compiler.disable()(len) is len
    assert not found.missed
    try:
        import torch._dynamo.config
    except ImportError:
        print(found.missed)
import torch._dynamo.config
print(torch._dynamo.config.__name__)
with lean() as found:
    print(torch._dynamo.config.__name__)
"""


def test_what_a_stand_in_cannot_be_is_told() -> None:
    assert run(MISSED).split() == ["True", "torch._dynamo.config", "torch._dynamo.config"]


@pytest.mark.parametrize("command", ["--version", "--help", "ask --help", "profiles list"])
def test_help_needs_no_torch(command: str) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom warpcortex_cli.cli.app import app\n"
        "assert CliRunner().invoke(app, sys.argv[1:]).exit_code == 0\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    assert run(code, *command.split()).strip() == "[]"


def test_what_transformers_exports_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again where that is damaged, or of other files."""
    monkeypatch.setattr(kept, "folder", lambda: tmp_path / "measured")
    models = tmp_path / "models"
    models.mkdir()
    structure = {
        "llama": {frozenset(): {"configuration_llama": {"LlamaConfig"}}, frozenset({"torch", "a"}): {"m": {"X"}}}
    }
    reads: list[str] = []

    def read(path: str) -> object:
        reads.append(path)
        return structure

    def start() -> object:
        """The same in another process."""
        once = lean._read_once(read)
        assert once(models / "__init__.py") == structure
        return once(models)

    assert [start() for _ in range(3)] == [structure] * 3
    assert len(reads) == 1
    (file,) = (tmp_path / "measured").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert start() == structure and len(reads) == 2
    (models / "another").mkdir()
    assert start() == structure and len(reads) == 3
    monkeypatch.setattr(lean, "version", lambda name: "5.25.0.dev0")
    assert start() == structure and start() == structure and len(reads) == 5
