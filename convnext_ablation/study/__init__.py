"""Studies: which networks to train, how to run them, what the difference is worth."""
