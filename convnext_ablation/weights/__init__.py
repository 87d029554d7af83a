"""Finds, downloads and verifies published weights."""

from convnext_ablation.weights.release import read_release

__all__ = ["read_release"]
