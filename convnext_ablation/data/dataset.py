"""What a data set is, to those who write it to a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

from convnext_ablation.data.archives import Published
from convnext_ablation.data.folder import Record

__all__ = ["DataSet"]


class DataSet(Protocol):
    """What a data set's module provides: a frozen dataclass, as its objects travel to other processes.

    Fields that `convnext_ablation.dataclass_options.option` made become options of the command line.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    in_threads: ClassVar[bool]  # whether `encode` lets go of the interpreter, so that it needs no processes
    published: ClassVar[Mapping[str, Published]]  # its archives, by the fields that name them

    def records(self, scratch: Path) -> Iterable[tuple[Record, Any]]:
        """All images, each as its record, still without a hash, and whatever `encode` needs.

        Args:
            scratch: Folder for what has to be downloaded or unpacked; it needn't be there.
        """

    def encode(self, key: Any, file: BinaryIO, /) -> None:
        """Writes the file of one image, the same bytes for the same key; by any worker, in any order."""

    def versions(self) -> dict[str, str]:
        """Versions of the software that has a say in the bytes."""
