"""What a torch pickle would do when loaded, told from its opcodes alone: nothing in it is run or built.

torch's ``weights_only`` unpickler calls nothing but a list of functions. Three things are left that a forged file can
do with those, and all show in the opcodes: a tuple of tuples of tuples, each twice in the next, has 2ⁿ leaves, and as a
dict's key is hashed leaf by leaf; a constructor such as ``torch.Tensor`` gives memory that was never written, with
whatever this process kept there; and so does a storage that a file of old names but does not hold.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Iterable, Sequence
from typing import IO, NamedTuple

__all__ = ["Item", "PickleProblem", "scan"]

_WORK = 1000
"""Leaves that may be built for each opcode, on average."""

_LONGEST_NAME = 300
"""Characters of a module and a name in it; torch's have some 60."""

_CALLED = frozenset(
    {
        "__builtin__ set",
        "_codecs encode",
        "builtins set",
        "collections Counter",
        "collections OrderedDict",
        "torch Size",
        "torch device",
        "torch._tensor _rebuild_from_type_v2",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_parameter_with_state",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
        # These are refused by what comes after, which names the tensor.
        "torch._utils _rebuild_device_tensor_from_cpu_tensor",
        "torch._utils _rebuild_meta_tensor_no_storage",
        "torch._utils _rebuild_nested_tensor",
        "torch._utils _rebuild_qtensor",
        "torch._utils _rebuild_sparse_tensor",
        "torch.serialization _get_layout",
    }
)
"""What a checkpoint of tensors calls: none of it makes a tensor but over a storage."""

_INDIRECT = "torch._tensor _rebuild_from_type_v2"
"""Calls what its first argument is."""

_TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_GETS, _PUTS = ("GET", "BINGET", "LONG_BINGET"), ("PUT", "BINPUT", "LONG_BINPUT")


class PickleProblem(ValueError):
    """The pickle is damaged, or is not one that saving a checkpoint writes; the message says how."""


class Item(NamedTuple):
    """What is known of a value on the unpickler's stack."""

    leaves: int = 1
    """Values in it, those that it holds twice counted twice."""
    text: str | None = None
    """Of a text; of a function or class its module and name."""
    parts: Sequence[Item] = ()
    """Of a tuple."""


class Scanned(NamedTuple):
    """What a pickle names."""

    storages: frozenset[str]
    """Keys of the storages that tensors are made over."""
    texts: frozenset[str]
    """Every text in it."""


def scan(file: IO[bytes]) -> Scanned:
    """Go through one pickle, from where ``file`` stands to the end of it.

    ``file`` lies in memory or is mapped there: opcodes promise any length, for which a file would allocate first.

    Raises :class:`PickleProblem` for a call that no checkpoint makes, for values that unfold beyond all measure, and
    for what is no pickle. Globals that are not called are left to the unpickler, which refuses them by name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of escapes that are none, in texts of a damaged file
            return _scan(pickletools.genops(file))
    except PickleProblem:
        raise
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise PickleProblem(f"the pickle is damaged: {error}") from None


def _scan(opcodes: Iterable[tuple[pickletools.OpcodeInfo, object, int | None]]) -> Scanned:
    stack: list[Item | None] = []  # None is a mark
    memo: dict[int, Item] = {}
    storages: set[str] = set()
    texts: set[str] = set()
    work = 0
    for count, (opcode, argument, _) in enumerate(opcodes, start=1):
        name = opcode.name
        if name in _GETS:
            stack.append(memo[_number(argument)])
            continue
        if name in _PUTS or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else _number(argument)] = _top(stack)
            continue
        if name == "MARK":
            stack.append(None)
            continue
        popped = _popped(stack, opcode)
        made = _made(name, argument, popped)
        if made.text is not None:
            texts.add(made.text)
        if name in ("REDUCE", "INST", "OBJ"):
            _check_call(made if name == "INST" else popped[0], popped[1:])
        if name in ("BINPERSID", "PERSID"):
            storages.add(_storage_key(popped))
        work += made.leaves
        if work > _WORK * (count + 1000):
            raise PickleProblem("its values hold each other so often that they unfold beyond all measure")
        stack.extend([made] * len(opcode.stack_after))
    return Scanned(frozenset(storages), frozenset(texts))


def _popped(stack: list[Item | None], opcode: pickletools.OpcodeInfo) -> list[Item]:
    """What an opcode takes from the stack, lowest first; a mark and all above it where it wants one."""
    wanted = opcode.stack_before
    above: list[Item] = []
    if pickletools.markobject in wanted:
        while (item := stack.pop()) is not None:
            above.append(item)
        below = wanted.index(pickletools.markobject)
    else:
        below = len(wanted)
    for _ in range(below):
        item = stack.pop()
        if item is None:
            raise PickleProblem("the pickle is damaged: a mark where a value belongs")
        above.append(item)
    return above[::-1]


def _top(stack: list[Item | None]) -> Item:
    if stack[-1] is None:
        raise PickleProblem("the pickle is damaged: a mark where a value belongs")
    return stack[-1]


def _made(name: str, argument: object, popped: Sequence[Item]) -> Item:
    leaves = 1 + sum(item.leaves for item in popped)
    if name in ("GLOBAL", "INST"):
        return Item(leaves, str(argument))
    if name == "STACK_GLOBAL":
        parts = [item.text or "?" for item in popped]
        # What it makes may be its next argument, twice, and so on: a few bytes each time double the text.
        if sum(map(len, parts)) > _LONGEST_NAME:
            raise PickleProblem("a name that is longer than any")
        return Item(leaves, " ".join(parts))
    if name in _TUPLES:
        return Item(leaves, None, tuple(popped))
    return Item(leaves, argument if isinstance(argument, str) else None)


def _check_call(called: Item, arguments: Sequence[Item]) -> None:
    for one in [called, *(arguments[0].parts[:1] if called.text == _INDIRECT and arguments else ())]:
        if one.text is None or one.text not in _CALLED:
            raise PickleProblem(f"GLOBAL {(one.text or 'something computed').replace(' ', '.')} is called")


def _storage_key(popped: Sequence[Item]) -> str:
    """The key in ``("storage", type, key, location, numel)``."""
    parts = popped[0].parts if popped else ()
    if len(parts) < 3 or parts[2].text is None:
        raise PickleProblem("a storage without a key")
    return parts[2].text


def _number(argument: object) -> int:
    return int(str(argument))
