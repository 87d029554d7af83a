"""Publishes a finished run as a release, in a folder or on a hub, atomically.

A release consists of `model.safetensors`, a model card, and timm's `config.json` with the SHA-256 of the
weights and the data behind the reported figures.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import Any

import timm
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils.tqdm import disable_progress_bars
from safetensors import SafetensorError
from timm.data import resolve_data_config
from timm.models import save_for_hf

from convnext_ablation.errors import UserError, first_line, in_one_line
from convnext_ablation.files import locked, resolved, sha256_of, write_text
from convnext_ablation.hub.card import model_card, recipe_of
from convnext_ablation.hub.finished_run import FinishedRun
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.training.arguments import PREPROCESSING
from convnext_ablation.training.history import BEST
from convnext_ablation.training.network import check_finite
from convnext_ablation.version import __version__
from convnext_ablation.weights.download import asked, hub_errors
from convnext_ablation.weights.release import CONFIG, HUB, WEIGHTS

CARD = "README.md"
FILES = (CONFIG, WEIGHTS, CARD)
_PREPROCESSING = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
Target = str | Path  # a repository of the hub, ``namespace/name``, or a folder


def target_of(text: str) -> Target:
    """Parses a repository ``namespace/name``, or a folder, which begins with ``.``, ``/`` or ``~``."""
    if text.startswith((".", "/", "~")):
        return resolved(Path(text).expanduser())
    name = text.removeprefix(HUB)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise UserError(f"{text}: write NAMESPACE/NAME for the hub, or ./{name} for a folder")
    if not text.startswith(HUB) and Path(name.partition("/")[0]).is_dir():
        raise UserError(f"{text}: write ./{name} for the folder, or {HUB}{name} for the hub")
    return name


@contextmanager
def drafted(
    run: FinishedRun, target: Target, license: str = "", say: Callable[[str], None] = lambda line: None
) -> Iterator[Path]:
    """Builds a release in a temporary folder, which is yielded and removed at the end of the context.

    `say` is called with a line about the loaded weights.
    """
    # on the same disk as the target, the release need only be renamed
    if isinstance(target, Path):
        where = next(above for above in target.parents if above.is_dir())
        scratch: AbstractContextManager[Any] = _scratch_of(where / f".publish-{target.name}")
    else:
        scratch = tempfile.TemporaryDirectory(prefix=".publish-")
    with scratch as folder:
        release = Path(folder) / "release"
        with in_one_line(f"{run.folder}: its network {run.arguments.model} can't be made"):
            # takes no memory for weights
            model: Any = timm.create_model(run.arguments.model, device="meta", **_model_args(run))
        settings = {name: value for name in PREPROCESSING if (value := run.saved.get(name))}
        images = resolve_data_config(settings, model=model)
        gmacs = count_gmacs(model, images["input_size"])
        say(_loaded(run, model))
        card = model_card(
            run,
            PurePath(target).name,
            _save(release, model, run, images, license),
            license,
            repository=target if isinstance(target, str) else "",
            images=images,
            parameters=count_parameters(model),
            gmacs=gmacs,
        )
        write_text(release / CARD, card)
        yield release


@contextmanager
def _scratch_of(folder: Path) -> Iterator[Path]:
    """Creates a locked scratch folder, removed at the end; removes leftovers of killed processes first."""
    lock = folder.with_name(f"{folder.name}.lock")
    with ExitStack() as until_done:
        with in_one_line(f"{folder.parent}: can't be written to"):
            busy = f"{folder.parent}: another publish works there; wait for it"
            until_done.enter_context(locked(lock, busy))
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        until_done.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _model_args(run: FinishedRun) -> dict[str, Any]:
    """Arguments with which the network was created."""
    arguments = run.arguments
    options: dict[str, Any] = {"in_chans": arguments.channels, "num_classes": arguments.num_classes}
    options |= {"global_pool": arguments.gp, **arguments.model_kwargs}
    return {name: value for name, value in options.items() if value is not None}


def _loaded(run: FinishedRun, model: Any) -> str:
    """Loads the run's weights into its network and checks them; returns a line about them."""
    try:
        said = run.load(model)
    except UserError as error:
        what = f"{run.folder}: its weights aren't those of {run.arguments.model} as args.yaml has it"
        raise UserError(f"{what}; {error}") from error
    check_finite(model, str(run.folder / BEST))
    return said


def _save(
    folder: Path, model: Any, run: FinishedRun, images: Mapping[str, Any], license: str
) -> dict[str, Any]:
    """Writes the weights and `config.json` with timm's function; returns the config."""
    cfg = model.pretrained_cfg
    same_size = tuple(images["input_size"][1:]) == tuple(cfg["input_size"][1:])
    # omit facts about the initial weights: licence, source, test size
    model.pretrained_cfg = {
        "architecture": cfg["architecture"],
        **{name: images[name] for name in _PREPROCESSING},
        **({"pool_size": cfg["pool_size"]} if same_size and cfg.get("pool_size") else {}),
        **{name: cfg[name] for name in ("fixed_input_size", "first_conv", "classifier") if name in cfg},
        "num_classes": model.num_classes,
        **({"license": license} if license else {}),
    }
    labels = {"label_names": list(run.data.classes)} if run.data.classes else {}
    try:
        save_for_hf(model, str(folder), labels, _model_args(run), safe_serialization=True)
    except (OSError, RuntimeError, SafetensorError) as error:  # including a full disk
        raise UserError(f"the release can't be written: {first_line(error)}") from error
    path, config = folder / WEIGHTS, json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    path.chmod((folder / CONFIG).stat().st_mode)  # safetensors makes files readable by the owner only
    config["weights"] = {"file": WEIGHTS, "sha256": sha256_of(path), "size": path.stat().st_size}
    config["trained"] = _trained(run)
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    return dict(config)


def _trained(run: FinishedRun) -> dict[str, Any]:
    """The data, results and settings behind the card's figures, so that they can be reproduced."""
    return {
        "data": run.data.name,
        "manifest_sha256": run.data.fingerprint or None,
        "results": [
            {
                "split": result.split,
                "images": result.images,
                "correct": result.correct,
                "top1_percent": result.top1,
                "top5_percent": result.top5,
                "picked_on": result.picked_on,
            }
            for result in run.results
        ],
        "weights": "ema" if run.ema else "plain",
        "epoch": run.best.epoch,
        "epochs": run.epochs,
        "seed": run.arguments.seed,
        "versions": dict(run.versions),
        "recipe": recipe_of(run.saved),
    }


def into_folder(release: Path, folder: Path) -> str:
    """Moves a release to a new or empty folder, unless published there already; returns a line about it."""
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if held == set(FILES):
        if all(filecmp.cmp(folder / name, release / name, shallow=False) for name in FILES):
            return f"{folder} holds just this already; nothing to do"
        raise UserError(f"{folder}: holds another release; remove it, or publish into another folder")
    if held:
        other = min(held - set(FILES), default="half a release")
        raise UserError(f"{folder}: holds {other}; publish into a folder of the release's own")
    with in_one_line(f"{folder.parent}: can't be made"):
        folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(release, folder)
    return f"published {folder}"


def client() -> HfApi:
    """Creates a hub client; raises a `UserError` without a token."""
    if not get_token():
        raise UserError("no token for the hub; log in with `hf auth login`, or set HF_TOKEN")
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(library_name="convnext_ablation", library_version=__version__)


def onto_hub(release: Path, repository: str, api: HfApi, public: bool = False) -> str:
    """Publishes a release in one commit, to a new repository or as a new revision.

    Returns:
        A line about what was done. On an error, the hub is unchanged.
    """
    with hub_errors(repository):
        try:
            info = asked(lambda: api.model_info(repository))
        except RepositoryNotFoundError:
            return f"published {HUB}{repository}@{_into_new(release, repository, api, public)}"
        if info.id.lower() != repository.lower():
            raise UserError(f"{repository}: is called {info.id} now; publish --to {info.id}")
        others = {sibling.rfilename for sibling in info.siblings or ()} - {*FILES, ".gitattributes"}
        if others:
            raise UserError(f"{repository}: holds {min(others)}, no part of a release; take another name")
        if not info.private and not public:
            raise UserError(f"{repository}: is public; give --public to publish there")
        commit = _commit(release, repository, api, info.sha)
    if commit == info.sha:  # the client skips empty commits
        return f"{HUB}{repository}@{commit} is just this already; nothing was sent"
    return f"published {HUB}{repository}@{commit}"


def _commit(release: Path, repository: str, api: HfApi, parent: str | None) -> str:
    def commit() -> str:
        return api.create_commit(
            repository,
            [CommitOperationAdd(name, release / name) for name in FILES],
            commit_message="Publish a release",
            parent_commit=parent,  # refused if someone else has committed meanwhile
        ).oid

    return asked(commit, sends=sum((release / name).stat().st_size for name in FILES))


def _into_new(release: Path, repository: str, api: HfApi, public: bool) -> str:
    """Creates a repository and commits; deletes it if the commit fails. Returns the commit hash."""
    asked(lambda: api.create_repo(repository, private=not public))
    try:
        return _commit(release, repository, api, None)
    except BaseException:
        try:
            asked(lambda: api.delete_repo(repository))
        except Exception:  # the hub is probably unreachable
            page = f"{constants.ENDPOINT}/{repository}"
            print(f"an empty repository may be left; remove it at {page}", file=sys.stderr)
        raise
