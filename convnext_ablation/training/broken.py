"""Images that can't be decoded, found and left out before anything is trained or evaluated."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable

from convnext_ablation.data.folder import in_threads
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import Processes, SharedError
from convnext_ablation.training.folder_reader import FolderReader
from convnext_ablation.training.images import Images, UnreadableImageError

_NAMED = 3  # images that the error names


def leave_out_broken(
    splits: Iterable[Images], arguments: TrainingArguments, processes: Processes
) -> dict[str, str]:
    """Leaves up to `skip_bad_images` images that can't be decoded out of the splits, counted together.

    Every image is decoded, by all processes together, which must all call this. What is left is as if the
    folder had never held the others, but for the numbers of classes.

    Returns:
        Why each can't be decoded, by its path below `data_dir`. Where `skip_bad_images` is 0, none is tried.

    Raises:
        SharedError: There are more, or a split isn't a folder of images, or has no other images.
    """
    most = arguments.skip_bad_images
    if not most:
        return {}
    splits = list(splits)
    for images in splits:
        if not isinstance(images.reader, FolderReader):
            raise SharedError(
                f"skip_bad_images is {most}, and {images.name} is not a folder of images; leave it out"
            )
    every = [(images, index) for images in splits for index in range(len(images))]
    mine = range(processes.rank, len(every), processes.world_size)

    def why_broken(position: int) -> str:
        images, index = every[position]
        try:
            images.load(index)
        except UnreadableImageError as error:
            cause = error.__cause__
            return " ".join(str(cause).split()) or type(cause).__name__
        return ""

    def look() -> dict[int, str]:
        threads, quiet = max(1, arguments.workers), not processes.is_first
        reasons = in_threads(why_broken, mine, "decoding images", threads, quiet)
        broken = ((position, why) for position, why in zip(mine, reasons, strict=True) if why)
        return dict(itertools.islice(broken, most + 1))  # so the first of all are among them

    found = itertools.chain.from_iterable(part.items() for part in processes.gather(processes.together(look)))
    broken = [(*every[position], why) for position, why in sorted(found)]
    root = arguments.data_dir or ""
    paths = {
        os.path.relpath(os.path.join(images.name, images.id(index)), root): why
        for images, index, why in broken
    }
    if len(broken) > most:
        first = ", ".join(f"{path} ({why})" for path, why in itertools.islice(paths.items(), _NAMED))
        more = ", ..." if len(paths) > _NAMED else ""
        raise SharedError(
            f"{root}: more than {most} of {len(every)} images can't be decoded: {first}{more}; mend or "
            "remove them, or give a larger --skip-bad-images"
        )
    for images in splits:
        images.leave_out({index: why for whose, index, why in broken if whose is images})
        if not len(images):
            raise SharedError(f"{images.name}: none of its images can be decoded; mend them")
    return paths
