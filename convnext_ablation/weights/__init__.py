"""Where weights come from, and the proof that they are the right ones.

Three sources: timm's public weights (`public`), releases of one's own on a hub or in a folder (`place`,
`release`), and whatever file the caller names, which is left to timm. `choice` picks one of them for an entry
point of the zoo; `hub` fetches, `integrity` checks.
"""

from convnext_ablation.weights.place import Place, find_release, own_tags, place_from_environment
from convnext_ablation.weights.release import Release, read_release

__all__ = ["Place", "Release", "find_release", "own_tags", "place_from_environment", "read_release"]
