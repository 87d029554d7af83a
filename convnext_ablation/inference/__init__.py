"""Networks in their fastest exact form: `optimize_for_inference`."""

from convnext_ablation.inference.optimize import OptimizedNetwork, optimize_for_inference

__all__ = ["OptimizedNetwork", "optimize_for_inference"]
