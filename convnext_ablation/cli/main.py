"""The `convnext-ablation` command."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import convnext_ablation
from convnext_ablation.cli import parsers
from convnext_ablation.dataclass_options import Parser
from convnext_ablation.errors import KEPT, UserError, exit_code_of
from convnext_ablation.machine import remove_empty_cache
from convnext_ablation.version import __version__


class Command(NamedTuple):
    """A command: what it does, its arguments, examples, and whether it needs torch, and resumes."""

    summary: str
    add: Callable[[argparse.ArgumentParser], None]
    examples: Sequence[str]
    networks: bool = True
    resumes: bool = False  # if it is interrupted and given again

    @property
    def epilog(self) -> str:
        """What `--help` ends with."""
        return "examples:\n" + "\n".join(f"  convnext-ablation {example}" for example in self.examples)


# A command's module has its name and is imported when the command is used, since some need the extra `study`.
# A group's first command is the one that its bare name runs.
COMMANDS: Mapping[str, Command | Mapping[str, Command]] = {
    "study": {
        "run": Command(
            "train a design's networks and measure each component's effect on accuracy",
            parsers.add_study_run,
            (
                "study --data typefaces --output runs/typefaces",
                "study mini --seeds 0 1 2 --output runs/mini",
            ),
            resumes=True,
        ),
        "plan": Command(
            "estimate a study's cost and the effects it could detect",
            parsers.add_study_plan,
            (
                "study plan --data typefaces --design stages --seeds 0 1 2",
                "study plan fgvc_11785 --seconds-per-image 0.001",
            ),
        ),
        "status": Command(
            "show how far a study is",
            parsers.add_study_status,
            ("study status runs/typefaces", "study status runs/mini"),
            networks=False,
        ),
        "report": Command(
            "write a study's report again",
            parsers.add_study_report,
            ("study report runs/typefaces", "study report runs/typefaces --resolve 0.5"),
        ),
    },
    "predict": Command(
        "give the classes of pictures without labels",
        parsers.add_predict,
        (
            "predict photos --checkpoint runs/mine",
            "predict photos.zip --model model_v --pretrained --topk 5",
        ),
    ),
    "prepare": Command(
        "write a data set as an image folder",
        parsers.add_prepare,
        ("prepare typefaces data/typefaces", "prepare cub200 data/cub --archives downloads --download"),
        networks=False,
        resumes=True,
    ),
    "data-report": Command(
        "find duplicates, leaks and broken images in a data set",
        parsers.add_data_report,
        ("data-report data/cub", "data-report data/cub --against data/imagenet"),
        networks=False,
        resumes=True,
    ),
    "models": Command(
        "list the networks, their cost and their weights",
        parsers.add_models,
        ("models 'roadmap_*' --size 112", "models model_v --weights"),
        networks=False,
    ),
    "bench": Command(
        "measure how fast networks are on this machine",
        parsers.add_bench,
        ("bench model_i model_v", "bench model_v resnet50 --mode training --dtype bfloat16"),
        resumes=True,
    ),
    "publish": Command(
        "release a finished run",
        parsers.add_publish,
        (
            "publish output/train/mine --to ./release --dry-run",
            "publish output/train/mine --to me/model_iv.cub200",
        ),
    ),
    "verify": Command(
        "recompute the reported accuracy of a release",
        parsers.add_verify,
        (
            "verify ./release --data data/cub",
            "verify hf-hub:me/model_iv.cub200 --data data/cub",
        ),
    ),
    "convert": Command(
        "convert another project's checkpoint to safetensors",
        parsers.add_convert,
        (
            "convert checkpoint.pth out.safetensors --model model_iii",
            "convert last.pth.tar ema.safetensors --model model_iv --ema",
        ),
    ),
    "recipes": Command(
        "list recipes and experiments, print one, or locate its file",
        parsers.add_recipes,
        ("recipes cub200_224", "recipes cub200_224 --path"),
        networks=False,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, that of the process if None; returns the exit code."""
    return exit_code_of("convnext-ablation", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could be typed next
        _complete()
    argv = _with_default_command(sys.argv[1:] if argv is None else list(argv))
    try:
        args, unknown = _parser(argv).parse_known_args(argv)
        if unknown:
            raise args.parser.unknown_argument(unknown[0])
        _run_to_the_end(args)
    finally:
        remove_empty_cache()


def _complete() -> None:
    from convnext_ablation.cli import completion

    typed = completion.words_typed()
    words = _with_default_command(typed)
    if words != typed and typed[1:2] and (typed[1].startswith("-") or typed[2:]):
        completion.insert(2, words[1])
    completion.complete(_parser(words))


def _run_to_the_end(args: argparse.Namespace) -> None:
    try:
        _imported(args.module, args.command.networks).run(args)
    except KeyboardInterrupt as error:
        if args.command.resumes:
            error.args += (KEPT,)
        raise


def _with_default_command(argv: list[str]) -> list[str]:
    """Inserts a group's first command where none of them is named: ``study --data X`` is ``study run``."""
    group = COMMANDS.get(argv[0]) if argv else None
    if isinstance(group, Mapping) and (len(argv) < 2 or argv[1] not in group):
        return [argv[0], next(iter(group)), *argv[1:]]
    return argv


def _parser(argv: Sequence[str]) -> Parser:
    """Makes the parser of all commands, with the arguments of the one that a command line names."""
    parser = Parser(
        prog="convnext-ablation", description="From ResNet-50 to ConvNeXt-T, one component at a time."
    )
    parser.add_argument("--version", action="version", version=__version__)
    _add_commands(parser, COMMANDS, argv, "convnext_ablation.cli.")
    return parser


def _add_commands(
    parser: argparse.ArgumentParser,
    known: Mapping[str, Any],
    argv: Sequence[str],
    module: str,
    default: str | None = None,
) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, what in known.items():
        group = what if isinstance(what, Mapping) else None
        first: Command = next(iter(group.values())) if group else what
        command = commands.add_parser(name, help=first.summary, description=first.summary)
        module_name = module + name.replace("-", "_")
        if argv[:1] != [name]:
            continue
        if group:
            _add_commands(command, group, argv[1:], module_name + "_", next(iter(group)))
            continue
        command.set_defaults(parser=command, command=what, module=module_name)
        command.epilog = what.epilog
        what.add(command)
        if name == default:
            command.prog = parser.prog  # without the name that users leave out
            others = ", ".join(other for other in known if other != default)
            command.epilog += f"\n\nsee also: {parser.prog} {{{others}}}"


def _imported(module_name: str, networks: bool) -> ModuleType:
    try:
        if networks:
            convnext_ablation.register_networks()
        return importlib.import_module(module_name)
    except ImportError as error:
        if error.name is None or error.name.startswith("convnext_ablation"):
            raise
        raise UserError(f"{error.name} is missing; pip install 'convnext_ablation[study]'") from error


if __name__ == "__main__":
    sys.exit(main())
