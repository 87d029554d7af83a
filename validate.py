#!/usr/bin/env python3
"""Evaluates weights: `python validate.py --help`."""

import sys

from convnext_ablation.cli.main import main

if __name__ == "__main__":
    sys.exit(main(script="validate.py"))
