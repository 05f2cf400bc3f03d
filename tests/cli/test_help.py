"""`warpcortex help`: the documents are in the package, and their links lead somewhere."""

from __future__ import annotations

import re

import pytest

from warpcortex_cli.cli.app import main
from warpcortex_cli.cli.help import topics


def _run(*args: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(args)
    assert isinstance(left.value.code, int)
    return left.value.code


def test_the_list_names_every_document_with_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(topics())
    assert {"architecture", "memory", "sessions", "profiles", "quantization", "json", "pocket"} <= topics().keys()
    assert all(len(line.split()) > 1 for line in lines)


def test_a_topic_is_printed_as_it_is_where_a_script_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("help", "memory") == 0
    assert capsys.readouterr().out == topics()["memory"].read_text(encoding="utf-8")


def test_an_unknown_topic_lists_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("help", "weather") == 2
    said = capsys.readouterr().err
    assert "weather" in said and "memory" in said


@pytest.mark.parametrize("topic", topics())
def test_links_between_documents_lead_to_files(topic: str) -> None:
    path = topics()[topic]
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path}: {target}"
