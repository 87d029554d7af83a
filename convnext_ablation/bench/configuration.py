"""What is measured together: the contestants of one configuration, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["FORMS", "INFERENCE", "MODES", "TRAINING", "Configuration", "Contestant"]

INFERENCE, TRAINING = MODES = ("inference", "training")
PLAIN, CHANNELS_LAST, OPTIMIZED, COMPILED = "plain", "channels-last", "optimized", "compiled"
FORMS = {
    INFERENCE: (PLAIN, CHANNELS_LAST, OPTIMIZED, COMPILED),
    TRAINING: (PLAIN, CHANNELS_LAST, COMPILED),
}


@dataclass(frozen=True)
class Contestant:
    """A network in one form.

    Attributes:
        model: Its name, as `timm.create_model` takes it.
        form: One of `FORMS` of its mode.
        dtype: Of what it computes in, e.g. ``"float32"``.
    """

    model: str
    form: str
    dtype: str

    def __str__(self) -> str:
        """What `--baseline` takes."""
        return f"{self.model}:{self.form}:{self.dtype}"


@dataclass(frozen=True)
class Configuration:
    """What one process measures in turn.

    Attributes:
        mode: One of `MODES`.
        device: As torch calls it.
        dtype: Of its contestants, but for a baseline that has its own.
        batch_size: Images at a time.
        img_size: Their side, in pixels.
        allocator: How the C library's allocator is set, see `allocators`.
        threads: Of torch.
        rounds: Measurements of each contestant.
        memory: Whether peak memory is measured too.
        contestants: Who is measured, the baseline among them.
        baseline: Whom the others are compared with.
    """

    mode: str
    device: str
    dtype: str
    batch_size: int
    img_size: int
    allocator: str
    threads: int
    rounds: int
    memory: bool
    contestants: tuple[Contestant, ...]
    baseline: Contestant

    @property
    def title(self) -> str:
        """Its name for people."""
        return (
            f"{self.mode}, {self.device}, {self.dtype}, batch {self.batch_size} at {self.img_size}, "
            f"{self.allocator} allocator"
        )

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Those that its contestants compute in."""
        return tuple(dict.fromkeys(contestant.dtype for contestant in self.contestants))

    def identity(self, machine: Mapping[str, str]) -> str:
        """A short name made of everything that determines what is measured.

        Args:
            machine: What it is measured on, and with which versions.
        """
        text = json.dumps([asdict(self), dict(machine)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Configuration:
        """Reads what `to_json` gave, or what JSON made of it."""
        return Configuration(
            **{
                **values,
                "contestants": tuple(Contestant(**contestant) for contestant in values["contestants"]),
                "baseline": Contestant(**values["baseline"]),
            }
        )
