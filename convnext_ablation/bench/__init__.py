"""Speed of networks on this machine, measured side by side."""
