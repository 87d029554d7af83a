"""Where weights come from, and the check that they are the ones that were published."""

from convnext_ablation.weights.release import (
    Place,
    Release,
    find_release,
    place_from_environment,
    read_release,
    release_of,
)

__all__ = ["Place", "Release", "find_release", "place_from_environment", "read_release", "release_of"]
