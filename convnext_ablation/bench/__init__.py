"""How fast networks are on this machine, side by side in one run.

`timing` measures anything; `command` is `convnext-ablation bench`.
"""
