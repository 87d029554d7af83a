"""Studies: which networks to train, how to run them, and the effect of each change."""
