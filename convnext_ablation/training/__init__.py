"""Training, exact evaluation and checkpoints, under the names of timm's `train.py`."""
