"""Headers of GGUF files: whole ones as the gguf package reads them, and damaged and hostile ones."""

from __future__ import annotations

import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from tests.gguf.files import packed_as, write_model
from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf.header import read_header


def u32(n: int) -> bytes:
    return struct.pack("<I", n)


def u64(n: int) -> bytes:
    return struct.pack("<Q", n)


def text(words: bytes) -> bytes:
    return u64(len(words)) + words


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + u32(kind) + value


def tensor(name: bytes = b"a", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + u32(len(shape)) + b"".join(map(u64, shape)) + u32(kind) + u64(offset)


ARCHITECTURE = key(b"general.architecture", 8, text(b"llama"))


def made(
    *tensors: bytes, keys: tuple[bytes, ...] = (ARCHITECTURE,), data: int = 64, start: bytes = b"GGUF" + u32(3)
) -> bytes:
    """A file with these keys and tensors and so many bytes of data, at an alignment of 32."""
    head = start + u64(len(tensors)) + u64(len(keys)) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def test_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    keys = (
        *(ARCHITECTURE, key(b"a", 4, u32(7)), key(b"b", 7, b"\1"), key(b"c", 6, struct.pack("<f", 0.5))),
        key(b"d", 9, u32(8) + u64(3) + text(b"x") + text("ö".encode()) + text(b"")),
        *(key(b"e", 9, u32(5) + u64(2) + struct.pack("<ii", 4, -4)), key(b"f", 12, struct.pack("<d", 0.1))),
        *(key(b"h", 9, u32(5) + u64(2) + struct.pack("<ii", 6, 6)), key(b"g", 9, u32(8) + u64(0))),
    )
    path.write_bytes(made(tensor(b"one", (4, 2)), tensor(b"two", (32, 1), 8, 32), keys=keys, data=66))
    found = read_header(path)
    assert found.architecture == "llama" and found.nbytes == path.stat().st_size
    assert (found.metadata["a"], found.metadata["b"], found.metadata["c"], found.metadata["f"]) == (7, True, 0.5, 0.1)
    assert (found.strings("d"), found.numbers("e"), found.strings("g")) == (["x", "ö", ""], [4, -4], [])
    assert (found.whole("h"), found.whole("nothing", 3), found.text("nothing")) == (6, 3, "")
    one, two = found.tensors["one"], found.tensors["two"]
    assert (one.shape, one.kind, one.nbytes, one.values) == ((2, 4), "F32", 32, 8)
    assert (two.shape, two.kind, two.nbytes, two.values) == ((1, 32), "Q8_0", 34, 32)
    assert (len(one.read()), len(two.read())) == (32, 34)
    with pytest.raises(ModelError, match="layers that differ in e"):
        found.number("e")
    with pytest.raises(ModelError, match="does not state nothing"):
        found.number("nothing")


def test_it_is_what_the_gguf_package_reads(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_model(model_folder("llama"), path, packed_as("Q5_1"))
    found, other = read_header(path), gguf.GGUFReader(path)
    assert set(found.metadata) == {name for name in other.fields if not name.startswith("GGUF.")}
    for name, field in other.fields.items():
        if not name.startswith("GGUF."):
            assert (found.strings(name) or found.metadata[name]) == field.contents(), name
    assert [t.name for t in other.tensors] == list(found.tensors)
    for theirs in other.tensors:
        mine = found.tensors[theirs.name]
        assert (mine.kind, mine.nbytes) == (theirs.tensor_type.name, theirs.n_bytes)
        assert mine.shape == tuple(reversed(theirs.shape.tolist()))
        assert mine.read().tobytes() == theirs.data.tobytes()


HUGE = 1 << 60
DAMAGED = {
    "empty": (b"", "is empty"),
    "short": (b"GG", "is not a GGUF file"),
    "other magic": (b"GGML" + bytes(60), "is not a GGUF file"),
    "magic alone": (b"GGUF", "is truncated"),
    "version 1": (b"GGUF" + u32(1) + bytes(60), "is GGUF version 1"),
    "version 9": (b"GGUF" + u32(9) + bytes(60), "is GGUF version 9"),
    "big endian": (b"GGUF" + struct.pack(">I", 3) + bytes(60), "big-endian"),
    "no counts": (b"GGUF" + u32(3), "is truncated"),
    "tensors": (b"GGUF" + u32(3) + u64(HUGE) + u64(0) + bytes(64), f"claims {HUGE} tensors"),
    "keys": (b"GGUF" + u32(3) + u64(0) + u64(HUGE) + bytes(64), f"claims {HUGE} keys"),
    "more keys than there are": (b"GGUF" + u32(3) + u64(0) + u64(2) + ARCHITECTURE + bytes(64), "a key without a name"),
    "length of a key": (made(keys=(u64(HUGE) + bytes(40),)), f"a key of {HUGE} bytes"),
    "length of a string": (made(keys=(key(b"a", 8, u64(HUGE)),)), f"a of {HUGE} bytes"),
    "length of a string by one": (made(keys=(key(b"a", 8, u64(65)),), data=0), r"a of 65 bytes"),
    "strings": (made(keys=(key(b"a", 9, u32(8) + u64(HUGE)),)), f"claims {HUGE} strings in a"),
    "strings that end": (made(keys=(key(b"a", 9, u32(8) + u64(3) + text(b"x") * 2 + u64(900)),)), "ends in a"),
    "huge string in an array": (made(keys=(key(b"a", 9, u32(8) + u64(2) + u64(2**64 - 9)),)), "ends in a"),
    "numbers": (made(keys=(key(b"a", 9, u32(4) + u64(HUGE)),)), f"claims {HUGE} numbers in a"),
    "arrays of arrays": (made(keys=(key(b"a", 9, u32(9) + u64(1) + (u32(9) + u64(1)) * 9),)), "unknown type 9"),
    "type of a value": (made(keys=(key(b"a", 13, bytes(8)),)), "unknown type 13"),
    "type in an array": (made(keys=(key(b"a", 9, u32(77) + u64(1) + bytes(8)),)), "unknown type 77"),
    "key twice": (made(keys=(ARCHITECTURE, ARCHITECTURE)), "holds general.architecture twice"),
    "key that is no text": (made(keys=(key(b"\xff\xfe", 4, u32(1)),)), "is damaged"),
    "name of a tensor": (made(u64(HUGE) + bytes(40)), f"a tensor's name of {HUGE} bytes"),
    "dimensions": (made(tensor(shape=(1,) * 5)), "a has 5 dimensions"),
    "many dimensions": (made(text(b"a") + u32(1 << 31) + bytes(40)), "has 2147483648 dimensions"),
    "no dimensions": (made(tensor(shape=())), "a has 0 dimensions"),
    "no values": (made(tensor(shape=(8, 0))), r"a of F32 has the shape \[0, 8\]"),
    "huge tensor": (made(tensor(shape=(1 << 62, 1 << 62))), "a extends beyond the file"),
    "tensor longer by one": (made(tensor(shape=(17,)), data=64), "a extends beyond the file"),
    "offset outside": (made(tensor(offset=96)), "a extends beyond the file"),
    "huge offset": (made(tensor(offset=2**64 - 32)), "a extends beyond the file"),
    "offset askew": (made(tensor(offset=8)), "a lies askew"),
    "overlap": (made(tensor(b"a", (16,)), tensor(b"b", (8,), 0, 32)), "a and b overlap"),
    "same place": (made(tensor(b"a"), tensor(b"b")), "a and b overlap"),
    "tensor twice": (made(tensor(b"a"), tensor(b"a", offset=32)), "holds a twice"),
    "half a block": (made(tensor(shape=(16,), kind=8)), r"a of Q8_0 has the shape \[16\]"),
    "type of a tensor": (made(tensor(kind=99)), "unknown type 99"),
    "alignment 0": (made(tensor(), keys=(ARCHITECTURE, key(b"general.alignment", 4, u32(0)))), "alignment is 0"),
    "alignment 3": (made(tensor(), keys=(ARCHITECTURE, key(b"general.alignment", 4, u32(3)))), "alignment is 3"),
    "alignment of text": (made(tensor(), keys=(key(b"general.alignment", 8, text(b"x")),)), "alignment is x"),
    "huge alignment": (made(tensor(), keys=(key(b"general.alignment", 10, u64(HUGE)),)), "a extends beyond the file"),
    "no data": (made(tensor(), data=0), "a extends beyond the file"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_and_hostile_files(name: str, tmp_path: Path) -> None:
    content, message = DAMAGED[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_header(path)
    assert "\n" not in caught.value.message and caught.value.message.count(". ") == 0


def test_a_file_that_ends_anywhere(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    write_model(model_folder("qwen2"), whole)
    content, path = whole.read_bytes(), tmp_path / "x.gguf"
    for length in [*range(200), *range(200, len(content), len(content) // 29), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ModelError):
            read_header(path)


def test_bytes_that_are_anything(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Whatever a header says, it is read or refused."""
    whole = tmp_path / "whole.gguf"
    write_model(model_folder("qwen2"), whole)
    content, path = bytearray(whole.read_bytes()), tmp_path / "x.gguf"
    for place in range(0, 1500, 9):
        for value in (0, 255):
            kept, content[place] = content[place], value
            path.write_bytes(content[:20_000])
            with pytest.raises(ModelError):  # it is cut, too
                read_header(path)
            content[place] = kept


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units")
def test_little_is_allocated_for_what_is_claimed(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    with path.open("wb") as file:  # as large as it claims, where the system has files with holes
        file.write(b"GGUF" + u32(3) + u64(0) + u64(1) + key(b"a", 9, u32(8) + u64((1 << 21) + 1)))
        file.truncate(1 << 31)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="claims 2097153 strings"):
        read_header(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


# -- several files -------------------------------------------------------------------------------------------


def split(number: int, count: int, tensors: int = 2) -> tuple[bytes, ...]:
    whole = key(b"split.tensors.count", 5, struct.pack("<i", tensors))
    numbers = (key(b"split.no", 2, struct.pack("<H", number)), key(b"split.count", 2, struct.pack("<H", count)))
    return (*((ARCHITECTURE,) if number == 0 else ()), whole, *numbers)


def shards(folder: Path, *contents: bytes, stem: str = "x") -> Path:
    for number, content in enumerate(contents):
        (folder / f"{stem}-{number + 1:05}-of-00002.gguf").write_bytes(content)
    return folder / f"{stem}-00001-of-00002.gguf"


FIRST, SECOND = made(tensor(b"a"), keys=split(0, 2)), made(tensor(b"b"), keys=split(1, 2))


def test_several_files_are_one_model(tmp_path: Path) -> None:
    found = read_header(shards(tmp_path, FIRST, SECOND))
    assert list(found.tensors) == ["a", "b"] and found.nbytes == len(FIRST) + len(SECOND)
    assert [t.path.name[2:7] for t in found.tensors.values()] == ["00001", "00002"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ((FIRST,), r"is incomplete: x-00002-of-00002\.gguf is missing"),
        ((FIRST, FIRST), "does not belong to the same model"),
        ((FIRST, made(tensor(b"a"), keys=split(1, 2))), "repeats tensors of another file"),
        ((FIRST, made(tensor(b"b"), keys=split(1, 3))), "does not belong to the same model"),
        ((made(tensor(b"a"), keys=split(0, 2, 3)), SECOND), "tensors are missing from its files"),
        ((FIRST, b"GGUF"), "is damaged"),
    ],
)
def test_several_files_that_are_not_one_model(contents: tuple[bytes, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        read_header(shards(tmp_path, *contents))


def test_the_first_of_several_is_to_be_named(tmp_path: Path) -> None:
    shards(tmp_path, FIRST, SECOND)
    with pytest.raises(ModelError, match=r"not the first file.*Give x-00001-of-00002\.gguf"):
        read_header(tmp_path / "x-00002-of-00002.gguf")
    (tmp_path / "y.gguf").write_bytes(FIRST)
    with pytest.raises(ModelError, match="cannot be derived from its name"):
        read_header(tmp_path / "y.gguf")
