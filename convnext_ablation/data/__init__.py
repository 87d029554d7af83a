"""Image folders: what a folder holds, whether it is fit to train on, and how the known data sets become one.

Every data set ends as the same thing, ``<folder>/<split>/<class>/<image>``, which timm reads as it is.
`convnext_ablation.data.folder` checks such folders, a user's own included, and
`convnext_ablation.data.prepare` writes them from the data sets that it knows by name.
"""

from convnext_ablation.data.folder import (
    SPLITS,
    FolderSummary,
    Record,
    check_folder,
    manifest_hash,
    read_manifest,
    write_manifest,
)

__all__ = [
    "SPLITS",
    "FolderSummary",
    "Record",
    "check_folder",
    "manifest_hash",
    "read_manifest",
    "write_manifest",
]
