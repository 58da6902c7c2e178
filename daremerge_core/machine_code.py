"""Loops as machine code: numba compiles them once, and every later run loads them without numba.

Importing numba, and all that it registers, takes longer than a small merge. A loop whose arguments are numbers and
addresses is a function in C, so its object code can be kept in a file, which LLVM maps into a process in no time.
What the code was made of is part of the file's name: sources, versions and the processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module, metadata, util
from pathlib import Path
from threading import Lock
from typing import Any

__all__ = ["MachineCode", "processor_suits"]

_C_TYPES = {
    "void": None,
    "int64": ctypes.c_int64,
    "uint8": ctypes.c_uint8,
    "uint16": ctypes.c_uint16,
    "uint32": ctypes.c_uint32,
    "float32": ctypes.c_float,
}
_SUFFIX = ".machine-code"
_HERE = Path(__file__).parent

_loading = Lock()


class MachineCode:
    """A function of a module that imports numba, which is compiled for its signature, and kept.

    Arguments are Python numbers, and addresses: integers, or arrays of ctypes. The GIL is released.
    """

    def __init__(self, module: str, name: str, arguments: str, result: str = "void") -> None:
        """
        Args:
            module: the name of a module of this package.
            arguments: their types, as numba names them; with a star, the address of so many as there are.
        """
        self._module, self._name = module, name
        self._arguments, self._result = arguments.split(), result
        self._function: Callable[..., Any] | None = None
        self._seen = False

    def __call__(self, *arguments: Any) -> Any:
        return (self._function or self.load())(*arguments)

    @property
    def kept(self) -> bool:
        """Whether there is machine code that can run here, without numba's being imported."""
        self._seen = self._seen or any(path.is_file() for path in self._paths())
        return self._seen

    def load(self) -> Callable[..., Any]:
        """Have the function ready: load its machine code, or compile it."""
        with _loading:
            if self._function is None:
                self._function = self._read() or self._compile()
            return self._function

    def _read(self) -> Callable[..., Any] | None:
        for path in self._paths():
            with suppress(OSError, ValueError, RuntimeError):  # not there, damaged, or refused by LLVM
                symbol, code = _unpack(path.read_bytes())
                return self._at(_map_into_process(symbol, code))
        return None

    def _compile(self) -> Callable[..., Any]:
        from numba import cfunc

        function = getattr(import_module(f"{__package__}.{self._module}"), self._name)
        # Numbers are divided as NumPy does it: looking for zeros would keep a loop from being vector code.
        options = {"nopython": True, "error_model": "numpy"}
        made: Any = cfunc(self._signature, **options)(function)  # type: ignore[arg-type]
        # Where numba has none to give, or there is nowhere to keep it, the next run compiles again.
        with suppress(AttributeError, LookupError, TypeError, ValueError):
            _, _, (code, _) = made._library.serialize_using_object_code()
            self._keep(_pack(made.native_name, code))
        call = self._at(made.address)
        call.made = made  # type: ignore[attr-defined]  # whose machine code ends with it
        return call

    def _keep(self, content: bytes) -> None:
        for path in self._paths():
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                # Under a name of its own first: other processes may be compiling the same.
                beside = path.with_name(f"{path.name}.{os.getpid()}")
                try:
                    beside.write_bytes(content)
                    beside.replace(path)
                finally:
                    beside.unlink(missing_ok=True)
                return

    @property
    def _signature(self) -> str:
        arguments = (f"CPointer({one[:-1]})" if one.endswith("*") else one for one in self._arguments)
        return f"{self._result}({', '.join(arguments)})"

    def _at(self, address: int) -> Callable[..., Any]:
        arguments: Any = (ctypes.c_void_p if one.endswith("*") else _C_TYPES[one] for one in self._arguments)
        return ctypes.CFUNCTYPE(_C_TYPES[self._result], *arguments)(address)

    def _paths(self) -> Iterator[Path]:
        """Where it may be kept."""
        made_of = _made_of()
        if made_of:
            key = hashlib.blake2b(f"{made_of} {self._signature}".encode(), digest_size=16).hexdigest()
            yield from (folder / f"{self._module}.{self._name}-{key}{_SUFFIX}" for folder in _folders())


def _pack(symbol: str, code: bytes) -> bytes:
    content = symbol.encode() + b"\n" + code
    return hashlib.blake2b(content).digest() + content


def _unpack(kept: bytes) -> tuple[str, bytes]:
    """Raises ValueError for what is damaged."""
    digest, content = kept[:64], kept[64:]
    if hashlib.blake2b(content).digest() != digest:
        raise ValueError("damaged")
    symbol, code = content.split(b"\n", 1)
    return symbol.decode(), code


def _folders() -> Iterator[Path]:
    """Where machine code is kept: beside the bytecode, or where that is not ours to write to, among the user's."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        yield Path(chosen)
        return
    yield _HERE / "__pycache__"
    caches = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    with suppress(RuntimeError):  # a user without a home
        yield (Path(caches) if caches else Path.home() / ".cache") / "daremerge"


@functools.cache
def _made_of() -> str:
    """All that decides the machine code; empty where numba is not installed."""
    if util.find_spec("numba") is None or util.find_spec("llvmlite") is None:
        return ""
    binding = _binding()
    digest = hashlib.blake2b(digest_size=16)
    # Functions of one module are compiled into another's, and so are constants of some that do without numba.
    for path in sorted([*_HERE.rglob("*_numba.py"), *(_HERE / f"{name}.py" for name in _CONSTANTS)]):
        digest.update(path.read_bytes())
    versions = [metadata.version(name) for name in ("numba", "llvmlite", "numpy")]
    processor = [binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()]
    return " ".join([digest.hexdigest(), sys.implementation.cache_tag, *versions, *processor])


_CONSTANTS = ("elements", "reach", "tally", "task_sum", "tiles")


@functools.cache
def _binding() -> Any:
    import llvmlite.binding as binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    # What numba's code would report an exception by: its loops have it beside them, and raise none.
    for name in ("numba_gil_ensure", "numba_gil_release"):
        if binding.address_of_symbol(name) is None:  # numba, if it comes, puts its own there
            binding.add_symbol(name, ctypes.cast(_never_called, ctypes.c_void_p).value)
    return binding


_never_called = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: os.abort())


@functools.cache
def processor_suits() -> bool:
    """Whether the processor converts halves itself; numba would look for a function in C otherwise."""
    if util.find_spec("llvmlite") is None:
        return False
    triple = _binding().get_process_triple()
    return not triple.startswith(("x86", "i")) or bool(_binding().get_host_cpu_features().get("f16c"))


@functools.cache
def _engine() -> Any:
    """What maps machine code; for as long as the process."""
    binding = _binding()
    machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(jit=True)
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine)


def _map_into_process(symbol: str, code: bytes) -> int:
    """The address of a function in object code."""
    engine = _engine()
    engine.add_object_file(_binding().ObjectFileRef.from_data(code))
    engine.finalize_object()
    address: int = engine.get_function_address(symbol)
    if not address:
        raise ValueError(f"no {symbol}")
    return address
