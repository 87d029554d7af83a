"""Intervals, variance and power."""
