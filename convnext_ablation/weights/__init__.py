"""Where weights come from, and the check that they are the ones that were published."""

from convnext_ablation.weights.release import read_release

__all__ = ["read_release"]
