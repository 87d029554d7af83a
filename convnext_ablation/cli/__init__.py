"""The `convnext-ablation` command: one module a command."""
