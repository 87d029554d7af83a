"""Reads files of `torch.save` without executing anything in them, in any version of torch.

A pickle is a program that calls functions by name. Here, every name maps to tensors, plain data or an inert
`Data` object; names of Python's own functions are refused. `torch.load(weights_only=True)` reads fewer types
of plain data, and crafted files can execute code in it before torch 2.6 (CVE-2025-32434) and 2.10
(CVE-2026-24747).
"""

from __future__ import annotations

import datetime
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch

from convnext_ablation.errors import UserError, first_line

# Python modules whose types are commonly stored beside weights, or that create such types
_DATA_MODULES = {
    "argparse", "array", "collections", "copyreg", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "ipaddress", "logging", "operator", "pathlib", "types", "typing", "uuid", "zoneinfo",
}  # fmt: skip
_BUILTINS = (
    bool, bytearray, bytes, complex, dict, float, frozenset, int, list, range, set, slice, str, tuple,
)  # fmt: skip
_PYTHON_2 = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "unicode": "str",
    "long": "int",
    "xrange": "range",
}
_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "UntypedStorage": torch.uint8, "BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip
_ZIP = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # in files from before torch 1.6


def read_pickle(path: Path) -> Any:
    """Reads a file of `torch.save`: tensors, plain values, and settings as `Data`.

    Raises:
        UserError: The file is damaged, of another kind, or names a function of Python.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(4) == _ZIP
            file.seek(0)
            return _read_zip(path) if zipped else _read_legacy(path, file)
    except (OSError, UserError):
        raise
    except BadZipFile as error:
        reason = str(error) if "CRC" in str(error) else "it is cut short"
        raise damaged(path, reason) from error
    except Exception as error:  # a damaged file can raise anything
        raise damaged(path, first_line(error)) from error


def damaged(path: Path, reason: str) -> UserError:
    """Builds the error for an unreadable file."""
    return UserError(f"{path}: not a checkpoint, or a damaged one ({reason}); download or copy it again")


def _read_zip(path: Path) -> Any:
    with ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise UserError(f"{path}: refused: a TorchScript program, not a checkpoint; save its state_dict")
        root = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
        if root is None:
            raise damaged(path, "a zip archive of other files; unpack it")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != sys.byteorder.encode():
            raise damaged(path, "of a processor with another order of bytes")

        # `read` checks the checksum
        def storage(key: str, dtype: torch.dtype, _: int) -> torch.Tensor:
            content = bytearray(archive.read(f"{root}data/{key}"))
            return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)

        with archive.open(f"{root}data.pkl") as file:
            return _Unpickler(path, file, storage).load()


def _read_legacy(path: Path, file: IO[bytes]) -> Any:
    size = path.stat().st_size

    def storage(_: str, dtype: torch.dtype, length: int) -> torch.Tensor:
        if not 0 <= length * dtype.itemsize <= size:
            raise ValueError("it is cut short")
        return torch.empty(length, dtype=dtype)

    if _Unpickler(path, file, storage).load() != _LEGACY_MAGIC:
        raise damaged(path, "a pickle that torch didn't write")
    for _ in ("version of the format", "sizes of the machine"):
        _Unpickler(path, file, storage).load()
    unpickler = _Unpickler(path, file, storage)
    content = unpickler.load()
    for key in _Unpickler(path, file, storage).load():
        values = unpickler.storages[key].view(torch.uint8).numpy()
        if len(file.read(8)) + file.readinto(values) != 8 + values.size:  # type: ignore[attr-defined]
            raise ValueError("it is cut short")
    return content


class Data(dict[Any, Any]):
    """Data of a type that need not be installed: its named attributes or items."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(kwargs)
        if len(args) == 1:
            self.__setstate__(args[0])

    def __setstate__(self, state: Any) -> None:
        """Takes the attributes or items of the saved object."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.update(part)

    def __reduce__(self) -> Any:
        """Pickles as an `OrderedDict`, which torch and timm accept."""
        return OrderedDict, (), None, None, iter(self.items())

    def __hash__(self) -> int:  # type: ignore[override]
        """Hashes by identity, because it may be a key."""
        return id(self)

    def append(self, _: Any) -> None:
        """Ignores an item of a list or set."""

    add = append
    extend = append


class _Unpickler(pickle.Unpickler):
    """Maps every name in a pickle to tensors or plain data.

    Replacement types are created per file or immutable, because a pickle can set their attributes.
    """

    def __init__(
        self, path: Path, file: IO[bytes], storage: Callable[[str, torch.dtype, int], torch.Tensor]
    ) -> None:
        super().__init__(file)
        self.path, self._storage = path, storage
        self.storages: dict[str, torch.Tensor] = {}
        self._data = type("Data", (Data,), {})
        self._dtype = type("DType", (_DType,), {})

    def persistent_load(self, pid: Any) -> Any:
        """Returns the flat storage that tensors are views of, or a module type."""
        if pid[0] == "module":
            return pid[1]
        _, dtype, key, _, length, *view = pid
        if any(view) or not isinstance(dtype, torch.dtype):
            raise ValueError("of a version of torch that is too old")
        if key not in self.storages:
            self.storages[key] = self._storage(key, dtype, length)
        return self.storages[key]

    def find_class(self, module: str, name: str) -> Any:
        """Returns the replacement for a name. Nothing is imported."""
        module, name = _PYTHON_2.get(module, module), _PYTHON_2.get(name, name)
        root = module.partition(".")[0]
        if root == "torch":
            return self._of_torch(name)
        if root == "numpy":
            return {"dtype": self._dtype, "scalar": self._number}.get(name, self._data)
        if module == "builtins" and (found := [each for each in _BUILTINS if each.__name__ == name]):
            return found[0]
        if root == "datetime" and name in ("date", "datetime", "time", "timedelta", "timezone"):
            return getattr(datetime, name)
        if root == "pathlib":
            pure = PureWindowsPath if "Windows" in name else PurePosixPath
            return lambda *parts: str(pure(*parts))
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):  # how older protocols write bytes
            return lambda text, _: text.encode("latin1")
        if root.lstrip("_") in sys.stdlib_module_names - _DATA_MODULES and name not in ("type", "object"):
            raise UserError(
                f"{self.path}: refused, nothing was run: the file names {module}.{name}, which is neither "
                "weights nor settings; save the state_dict alone where it was made"
            )
        return self._data

    def _of_torch(self, name: str) -> Any:
        if name in _DTYPES:
            return _DTYPES[name]
        if name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return lambda values, offset, size, stride, *_: values.as_strided(size, stride, offset)
        if name == "_rebuild_tensor_v3":
            return lambda values, offset, size, stride, _, __, dtype, *___: values.view(dtype).as_strided(
                size, stride, offset
            )
        if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return lambda tensor, *_: tensor
        if name == "_rebuild_from_type_v2":  # a subclass of Tensor
            return lambda rebuild, _, args, __: rebuild(*args)
        if name == "Size":
            return tuple
        dtype = vars(torch).get(name)
        return dtype if isinstance(dtype, torch.dtype) else self._data

    def _number(self, dtype: _DType, content: bytes) -> Any:
        """Converts a NumPy scalar to a Python number."""
        return np.frombuffer(content, np.dtype(dtype.order + dtype.code)).item()


class _DType:
    """The type of a NumPy scalar, such as ``<f8``."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="  # as NumPy writes them

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]
