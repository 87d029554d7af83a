"""How fast networks are on this machine, side by side in one run."""
