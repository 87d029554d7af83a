"""A whole study published: each network's best run as a release, and what ties them together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.hub.card import Sibling, percent, recipe_of
from convnext_ablation.hub.finished_run import STUDY_RESULT, FinishedRun, Which, read_run, saved_arguments
from convnext_ablation.hub.publish import CARD, Target
from convnext_ablation.hub.upload import told

__all__ = [
    "RULE",
    "Member",
    "best_runs",
    "collection_card",
    "members_of",
    "siblings_of",
    "tie_in_folder",
    "tie_on_hub",
]

_VARIED = ("seed", "initial_checkpoint", "pretrained_path")  # between the runs of a network
RULE = "of each network, the run with the best top-1 on validation, of equals the one with the lowest seed"


@dataclass(frozen=True)
class Member:
    """One network of a study, and where its release goes."""

    run: FinishedRun
    target: Target

    @property
    def link(self) -> str:
        """How another release's card links to it."""
        return (
            f"https://huggingface.co/{self.target.repository}"
            if self.target.repository
            else f"../{self.target.name}"
        )


def best_runs(study: Path) -> dict[str, Path]:
    """Finds the run of each network that is published, by `RULE`; never by the test.

    Args:
        study: The study's folder.

    Returns:
        The runs' folders by the networks' names, in the order of the names.

    Raises:
        UserError: There is no finished run, or some of a network were trained otherwise than others.
    """
    best: dict[str, tuple[float, int, Path]] = {}
    settings: dict[str, tuple[Any, Path]] = {}
    for folder, result in _finished(study):
        network, seed = str(result["network"]), int(result["seed"])
        recipe = {
            name: value for name, value in recipe_of(saved_arguments(folder)).items() if name not in _VARIED
        }
        known, other = settings.setdefault(network, (recipe, folder))
        if known != recipe:
            raise UserError(
                f"{folder} and {other.name} are of the same network with other settings; remove what is no "
                "part of the study, or publish the runs one by one"
            )
        candidate = (-float(result["val_top1"]), seed, folder)
        best[network] = min(best.get(network, candidate), candidate)
    if not best:
        raise UserError(f"{study}: has no finished run; name the output folder of a study")
    return {network: best[network][2] for network in sorted(best)}


def _finished(study: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The runs that were tested, with what they came to; runs that only tuned a learning rate were not."""
    for path in sorted(study.glob(f"runs/*/{STUDY_RESULT}")):
        try:
            result = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: can't be read ({error}); delete its folder to do the run again"
            ) from error
        if "test_top1" in result:
            yield path.parent, result


def members_of(study: Path, to: str, tag: str, which: Which, data: Path | None) -> list[Member]:
    """Reads the runs that are published, and says where each goes.

    Args:
        study: The study's folder.
        to: Namespace on the hub, or a path.
        tag: What stands behind the networks' names; empty for the data set and the size of its images.
        which: Which weights.
        data: Folder of the data set, if it isn't where the study had it.

    Raises:
        UserError: A run can't be read, or the name is neither.
    """
    to_hub = bool(re.fullmatch(r"(hf-hub:)?[A-Za-z0-9][\w.-]*", to))
    if to_hub and not to.startswith("hf-hub:") and Path(to).is_dir():
        raise UserError(f"{to}: write ./{to} for the folder, or hf-hub:{to} for the namespace")
    namespace, members = to.removeprefix("hf-hub:"), []
    for network, folder in best_runs(study).items():
        run = read_run(folder, which, data)
        name = f"{network}.{tag or _tag(run)}"
        target = Target(f"{namespace}/{name}") if to_hub else Target(folder=Path(to).expanduser() / name)
        members.append(Member(run, target))
    return members


def _tag(run: FinishedRun) -> str:
    size = (run.arguments.input_size or (run.arguments.img_size or 224,))[-1]
    return f"{re.sub('[^a-z0-9]+', '_', run.data.name.lower()).strip('_')}_{size}"


def siblings_of(member: Member, members: Sequence[Member]) -> list[Sibling]:
    """The other networks, for a network's card."""
    return [
        Sibling(other.target.name, other.link, other.run.results) for other in members if other is not member
    ]


def collection_card(study: str, members: Sequence[Member]) -> str:
    """Writes what ties the releases of a study together in a folder."""
    lines = ["| network | split | images | top-1 % [95 %] |", "|---|---|---:|---:|"]
    lines += [
        f"| [{name}]({name}/{CARD}) | {result.split} | {result.images} | {percent(result)} |"
        for name, member in ((member.target.name, member) for member in members)
        for result in member.run.results[:1]
    ]
    table = "\n".join(lines)
    return (
        f"# {study}\n\nThe networks of the study {study}: {RULE}. Another seed gives another figure: what a "
        "component is worth is in the study's report, which is over all seeds.\n\n"
        f"{table}\n\nThe intervals are over images. `CONVNEXT_ABLATION_WEIGHTS` set to this folder, "
        "`timm.create_model(..., pretrained=True)` finds these weights.\n"
    )


def tie_in_folder(study: str, members: Sequence[Member]) -> Path:
    """Writes the collection's card beside its releases."""
    folder = members[0].target.folder
    assert folder is not None
    path = folder.parent / CARD
    write_text(path, collection_card(study, members))
    return path


def tie_on_hub(study: str, members: Sequence[Member], api: HfApi, public: bool) -> str:
    """Puts the releases of a study into a collection on the hub, which is made if need be.

    Returns:
        The collection's name.

    Raises:
        UserError: The hub refuses.
    """
    namespace = members[0].target.repository.partition("/")[0]
    with told(f"the collection {study} of {namespace}"):
        collection = api.create_collection(
            study[:59],
            namespace=namespace,
            description=f"Networks of one study, {len(members)} in all; {RULE.partition(',')[0]} one run"[
                :150
            ],
            private=not public,
            exists_ok=True,
        )
        for member in members:
            note = next((f"{result.split}: top-1 {percent(result)} %" for result in member.run.results), None)
            api.add_collection_item(
                collection.slug, member.target.repository, "model", note=note, exists_ok=True
            )
    return collection.slug
