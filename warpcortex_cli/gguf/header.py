"""The header of a GGUF file: metadata and tensor offsets. Does not import torch.

Not `gguf.GGUFReader`, which takes seconds for a vocabulary of 49,152 tokens and trusts every count and offset in the
file. This parser takes a hundredth of the time and checks each against the file's size before allocating anything.
Format: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf.strings import Strings, extent

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32  # the default

# ggml's types: values and bytes of a block.
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9

# More than any model has, and few enough to walk through in a second.
_MOST_KEYS, _MOST_TENSORS, _MOST_STRINGS = 1 << 16, 1 << 17, 1 << 21
_LONGEST_KEY, _LONGEST_NAME, _MOST_DIMENSIONS = 65_535, 512, 4

_AGAIN = "Copy or pull the file again."
_OTHER = "Choose another model."
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


Value = int | float | bool | str | list[int | float | bool] | Strings


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file.

    Attributes:
        shape: in torch's order, with the last dimension contiguous.
        kind: ggml's name of its type, such as "Q4_K".
        path, offset, nbytes: the location of its bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    path: Path
    offset: int
    nbytes: int

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    def read(self) -> NDArray[np.uint8]:
        """A copy of its bytes: mapped pages would count towards RSS in addition to the weights made from them."""
        data = np.fromfile(self.path, np.uint8, self.nbytes, offset=self.offset)
        if len(data) != self.nbytes:
            raise ModelError(f"{self.path.name} is truncated.", "Copy or pull the file again.")
        return data


@dataclass(frozen=True)
class Header:
    """Metadata and tensors of a model, of all its files.

    Attributes:
        path: the first file.
        name: the user's name for it.
        metadata: numbers, strings, and arrays of numbers; arrays of strings undecoded, see `strings`.
        tensors: by their names in the file.
        nbytes: size of all files.
    """

    path: Path
    name: str
    metadata: dict[str, Value]
    tensors: dict[str, TensorInfo]
    nbytes: int

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture. Raises ModelError without one."""
        return self.text("general.architecture") or self._lacks("general.architecture")

    def text(self, key: str, default: str = "") -> str:
        found = self.metadata.get(key, default)
        return found if isinstance(found, str) else default

    def number(self, key: str, default: float | None = None) -> float:
        """A number, or the common value of a list with one for each layer.

        Raises:
            ModelError: it is missing without a default, or layers differ.
        """
        found = self.metadata.get(key)
        if isinstance(found, list) and found and len(set(found)) == 1:
            found = found[0]
        if isinstance(found, list) and found:
            raise ModelError(f"{self.name} has layers that differ in {key}, which is not supported.", _OTHER)
        if isinstance(found, (int, float)) and math.isfinite(found):
            return found
        return default if default is not None else self._lacks(key)

    def whole(self, key: str, default: int | None = None) -> int:
        """A positive integer of at most 31 bits."""
        found = self.number(key, default)
        if found != int(found) or not 0 <= found < 1 << 31:
            raise ModelError(f"{self.name} is damaged ({key} is {found}).", _AGAIN)
        return int(found)

    def strings(self, key: str) -> list[str]:
        """An array of strings; empty if there is none."""
        found = self.metadata.get(key)
        return found.decoded if isinstance(found, Strings) else []

    def pairs(self, key: str) -> list[tuple[str, str]] | None:
        """An array of strings of two words each, if it is one that can be taken apart at once; else None."""
        found = self.metadata.get(key)
        return found.pairs() if isinstance(found, Strings) else None

    def strings_in(self, key: str) -> int:
        """Length of an array of strings."""
        found = self.metadata.get(key)
        return len(found) if isinstance(found, Strings) else 0

    def numbers(self, key: str) -> list[int | float | bool]:
        """An array of numbers; empty if there is none."""
        found = self.metadata.get(key)
        return found if isinstance(found, list) else []

    def _lacks(self, key: str) -> NoReturn:
        raise ModelError(f"{self.name} does not state {key}, so it is not a language model.", _AGAIN)


def read_header(path: Path, name: str | None = None) -> Header:
    """Reads a model's header, including all shards if `path` is the first one.

    `name` is the user's name for it, by default its file's name. The last header of a single file is cached until the
    file changes, since it is read three times at a start.

    Raises:
        ModelError: not a GGUF file, damaged, of an unknown version or byte order, or a shard is missing.
    """
    global _newest
    try:
        at = path.stat()
        key = (path, name, at.st_ino, at.st_size, at.st_mtime_ns)
    except OSError:
        key = None
    if key is None or _newest is None or _newest[0] != key:
        found = _whole(path, name)
        if found.whole("split.count", 1) > 1 or key is None:  # other files may have changed
            return found
        _newest = key, found
    return _newest[1]


_newest: tuple[tuple[object, ...], Header] | None = None


def _whole(path: Path, name: str | None) -> Header:
    first = _read(path, name or path.name)
    count = first.whole("split.count", 1)
    if count <= 1:
        return first
    parts = _SHARD.fullmatch(path.name)
    if parts is None or int(parts["count"]) != count:
        raise ModelError(
            f"{path.name} is one of {count} files, and their names cannot be derived from its name.",
            "Give them their original names: name-00001-of-00003.gguf.",
        )
    if first.whole("split.no", 0) != 0 or int(parts["number"]) != 1:
        start = f"{parts['stem']}-00001-of-{parts['count']}.gguf"
        raise ModelError(f"{path.name} is not the first file of its model.", f"Give {start}.")
    tensors, nbytes = dict(first.tensors), first.nbytes
    for number in range(1, count):
        other = path.with_name(f"{parts['stem']}-{number + 1:05}-of-{parts['count']}.gguf")
        if not other.is_file():
            raise ModelError(f"{path.name} is incomplete: {other.name} is missing.", "Copy or pull all its files.")
        shard = _read(other, other.name)
        if shard.whole("split.no", 0) != number or shard.whole("split.count", 1) != count:
            raise ModelError(f"{other.name} does not belong to the same model as {path.name}.", _AGAIN)
        if tensors.keys() & shard.tensors.keys():
            raise ModelError(f"{other.name} is damaged (it repeats tensors of another file).", _AGAIN)
        tensors.update(shard.tensors)
        nbytes += shard.nbytes
    if len(tensors) != first.whole("split.tensors.count", len(tensors)):
        raise ModelError(
            f"{path.name} is incomplete: tensors are missing from its files.", "Copy or pull all its files."
        )
    return Header(path, first.name, first.metadata, tensors, nbytes)


def _read(path: Path, name: str) -> Header:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, name, data).header()
    except (_Damaged, UnicodeDecodeError) as error:
        raise ModelError(f"{name} is damaged ({error}).", _AGAIN) from None
    except ValueError:  # from mmap
        raise ModelError(f"{name} is empty.", _AGAIN) from None
    except OSError as error:
        raise ModelError(f"{name} cannot be read: {error.strerror or error}.", "Check who may read it.") from None


class _Damaged(Exception):
    """What is wrong with a file; the message shows it in brackets."""


class _Reader:
    """Parses a header. Each count is checked against the rest of the file before anything is allocated."""

    def __init__(self, path: Path, name: str, data: mmap.mmap) -> None:
        self._path, self._name, self._data, self._size = path, name, data, len(data)
        self._at = 0

    def header(self) -> Header:
        if self._size < len(MAGIC) or self._data[:4] != MAGIC:
            raise ModelError(f"{self._name} is not a GGUF file.", "Give a file that ends in .gguf, or a folder.")
        self._at = 4
        version = self._number("<I")
        if version not in _VERSIONS:
            if int.from_bytes(int(version).to_bytes(4, "little"), "big") in _VERSIONS:
                raise ModelError(f"{self._name} is written for big-endian machines.", _OTHER)
            raise ModelError(
                f"{self._name} is GGUF version {version}; only versions 2 and 3 are supported.",
                "Convert it with a newer llama.cpp, or choose another model.",
            )
        tensors = self._count("<Q", 32, _MOST_TENSORS, "tensors")
        keys = self._count("<Q", 13, _MOST_KEYS, "keys")
        metadata = self._metadata(keys)
        entries = [self._entry() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            raise _Damaged(f"its alignment is {str(alignment)[:40]}")
        start = -(-self._at // alignment) * alignment
        found = self._placed(entries, start, alignment)
        return Header(self._path, self._name, metadata, found, self._size)

    # -- metadata --------------------------------------------------------------------------------------------

    def _metadata(self, count: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for _ in range(count):
            key = self._text(_LONGEST_KEY, "a key").decode()
            if not key:
                raise _Damaged("it holds a key without a name")
            if key in found:
                raise _Damaged(f"it holds {key[:80]} twice")
            kind = self._number("<I")
            if kind == _STRING:
                found[key] = self._text(self._size, key).decode("utf-8", "replace")
            elif kind == _ARRAY:
                found[key] = self._array(key)
            else:
                found[key] = self._number(self._form(kind))
        return found

    def _array(self, key: str) -> Value:
        kind = self._number("<I")
        if kind == _STRING:
            count = self._count("<Q", 8, _MOST_STRINGS, f"strings in {key[:80]}")
            start, nbytes = self._at, extent(self._data, self._at, count)
            if nbytes is None:
                raise _Damaged(f"it ends in {key[:80]}")
            self._at += nbytes
            return Strings(self._data[start : self._at], count)
        form = self._form(kind)
        size = struct.calcsize(form)
        count = self._count("<Q", size, _MOST_STRINGS, f"numbers in {key[:80]}")
        values = struct.unpack_from(f"<{count}{form[1]}", self._data, self._at)
        self._at += count * size
        return list(values)

    def _form(self, kind: int) -> str:
        form = _SCALARS.get(kind)
        if form is None:
            raise _Damaged(f"it holds values of the unknown type {kind}")
        return form

    # -- tensors ---------------------------------------------------------------------------------------------

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset."""
        name = self._text(_LONGEST_NAME, "a tensor's name").decode()
        dimensions = self._number("<I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise _Damaged(f"{name} has {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        return name, shape[::-1], self._number("<I"), self._number("<Q")

    def _placed(
        self, entries: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> dict[str, TensorInfo]:
        found: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in entries:
            if kind not in TYPES:
                raise ModelError(
                    f"{self._name} holds a tensor of unknown type {kind}.",
                    "Update warpcortex, or choose another model.",
                )
            words, block, size = TYPES[kind]
            if name in found:
                raise _Damaged(f"it holds {name} twice")
            if min(shape) < 1 or shape[-1] % block:
                raise _Damaged(f"{name} of {words} has the shape {list(shape)}")
            nbytes = math.prod(shape) // block * size
            if offset % alignment or start + offset + nbytes > self._size:
                raise _Damaged(f"{name} extends beyond the file" if not offset % alignment else f"{name} lies askew")
            found[name] = TensorInfo(name, shape, words, self._path, start + offset, nbytes)
        for a, b in pairwise(sorted(found.values(), key=lambda t: t.offset)):
            if a.offset + a.nbytes > b.offset:
                raise _Damaged(f"{a.name} and {b.name} overlap")
        return found

    # -- bytes -----------------------------------------------------------------------------------------------

    def _number(self, form: str) -> Any:
        size = struct.calcsize(form)
        if self._at + size > self._size:
            raise _Damaged("it is truncated")
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += size
        return value

    def _count(self, form: str, each: int, most: int, what: str) -> int:
        """A count of items that take at least `each` bytes in the rest of the file."""
        count: int = self._number(form)
        if count > most or count * each > self._size - self._at:
            raise _Damaged(f"it claims {count} {what}")
        return count

    def _text(self, longest: int, what: str) -> bytes:
        size: int = self._number("<Q")
        if size > longest or size > self._size - self._at:
            raise _Damaged(f"{what} of {size} bytes")
        self._at += size
        return self._data[self._at - size : self._at]
