"""The arguments of a speed measurement, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from convnext_ablation.dataclass_options import option, options_of
from convnext_ablation.machine import available_cores

INFERENCE, TRAINING = MODES = ("inference", "training")
PLAIN, CHANNELS_LAST, OPTIMIZED, COMPILED = "plain", "channels-last", "optimized", "compiled"
FORMS = {
    INFERENCE: (PLAIN, CHANNELS_LAST, OPTIMIZED, COMPILED),
    TRAINING: (PLAIN, CHANNELS_LAST, COMPILED),
}
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """What to measure."""

    models: tuple[str, ...]
    mode: tuple[str, ...] = option((INFERENCE,), "modes to benchmark", choices=MODES)
    batch_size: tuple[int, ...] = option((16,), "batch sizes", "[1, 1000000]")
    img_size: tuple[int, ...] = option((224,), "image sizes in pixels", "[1, 16384]")
    dtype: tuple[str, ...] = option(("float32",), "dtypes; in training, autocast dtypes", choices=DTYPES)
    device: str = option("", "device; cuda by default if there is a GPU")
    rounds: int = option(7, "measurements per configuration", "[3, 1000000]")
    threads: int = option(available_cores(), "PyTorch CPU threads", "[1, 1024]")
    forms: tuple[str, ...] = option(FORMS[INFERENCE], "forms that the mode has", choices=FORMS[INFERENCE])
    baseline: str = option("", "MODEL[:FORM[:DTYPE]]; the first model in its first form if not given")

    def __post_init__(self) -> None:
        """Checks choices and ranges."""
        for name, known in OPTIONS.items():
            object.__setattr__(self, name, known.check(getattr(self, name)))


OPTIONS = options_of(BenchArguments)
