#!/usr/bin/env python3
"""Trains a network: `python train.py --help`, or `./distributed_train.sh N ...` with N processes."""

import sys

from convnext_ablation.cli.main import main

if __name__ == "__main__":
    sys.exit(main(script="train.py"))
