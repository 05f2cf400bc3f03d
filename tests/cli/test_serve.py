"""`serve` refuses what cannot be served before it loads a model."""

from __future__ import annotations

import sys

import pytest

from warpcortex_cli.cli.app import main


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(["serve", *args])
    out, err = capsys.readouterr()
    assert left.value.code == 2 and not out and "Traceback" not in err
    return err


def test_other_machines_take_a_key(capsys, monkeypatch) -> None:
    pytest.importorskip("fastapi")
    monkeypatch.delenv("WARPCORTEX_API_KEY", raising=False)
    assert "takes an API key" in refused(capsys, "--host", "0.0.0.0")


def test_a_port_that_is_taken_is_said(capsys) -> None:
    pytest.importorskip("fastapi")
    from warpcortex_cli.serve.server import bound

    with bound("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        assert f"127.0.0.1:{port} cannot be listened at" in refused(capsys, "--port", str(port))


def test_what_has_to_be_installed_is_said(capsys, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "warpcortex_cli.serve.app", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    told = refused(capsys)
    assert "needs fastapi" in told and "pip install 'warpcortex[serve]'" in told
