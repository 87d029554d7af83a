"""The fastest equivalent form of a network: `optimize_for_inference`."""

from convnext_ablation.inference.optimize import OptimizedNetwork, optimize_for_inference

__all__ = ["OptimizedNetwork", "optimize_for_inference"]
