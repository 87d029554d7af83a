"""The `convnext-ablation` command."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from convnext_ablation.cli import asked, load_networks, parsers
from convnext_ablation.dataclass_options import Parser
from convnext_ablation.errors import KEPT, UserError, exit_code_of
from convnext_ablation.machine import is_first_process, remove_empty_cache
from convnext_ablation.training import trained_arguments
from convnext_ablation.training.settings import TIMM_ONLY, WITHOUT_EFFECT, timm_only
from convnext_ablation.version import __version__

PROGRAM = "convnext-ablation"


class Command(NamedTuple):
    """A command.

    Attributes:
        examples: Command lines, without the program.
        networks: Whether the command needs torch.
        resumes: Whether the same command resumes after an interruption.
        timms: Arguments that only timm's script of the same name accepts.
    """

    examples: Sequence[str]
    networks: bool = True
    resumes: bool = False
    timms: Collection[str] = ()


# The module of a command has its name, below a group's, and so have the functions that add its arguments, in
# `parsers`, and that check them, if any, in `asked`. A module is imported on use, because some need the extra
# `study`. A group's first command is its default.
COMMANDS: Mapping[str, Command | Mapping[str, Command]] = {
    "study": {
        "run": Command(
            ("study --data typefaces --output runs/typefaces", "study mini --seeds 0 1 2 --output runs/mini"),
            resumes=True,
        ),
        "plan": Command(
            (
                "study plan --data typefaces --design stages --seeds 0 1 2",
                "study plan fgvc_11785 --seconds-per-image 0.001",
            ),
        ),
        "status": Command(("study status runs/typefaces", "study status runs/mini"), networks=False),
        "report": Command(
            ("study report runs/typefaces", "study report runs/typefaces --resolve 0.5"), networks=False
        ),
    },
    "train": Command(
        (
            "train data/cub -c cub200_224 --model model_iv",
            "train data/cub --model model_iii --device cpu --epochs 10",
        ),
        timms=(*TIMM_ONLY, *WITHOUT_EFFECT),
    ),
    "validate": Command(
        (
            "validate data/cub --split test --checkpoint runs/iv",
            "validate data/imagenet --model model_v --pretrained",
        ),
        timms=trained_arguments.TIMM_ONLY,
    ),
    "predict": Command(
        (
            "predict photos --checkpoint runs/mine",
            "predict photos.zip --model model_v --pretrained --topk 5",
        ),
    ),
    "export": Command(
        (
            "export runs/mine --to onnx --int8 data/birds",
            "export model_v --to aoti --output model_v.pt2",
        ),
    ),
    "prepare": Command(
        ("prepare typefaces data/typefaces", "prepare cub200 data/cub --archives downloads --download"),
        networks=False,
        resumes=True,
    ),
    "data-report": Command(
        ("data-report data/cub", "data-report data/cub --against data/imagenet"),
        networks=False,
        resumes=True,
    ),
    "models": Command(("models 'roadmap_*' --size 112", "models model_v --weights"), networks=False),
    "bench": Command(
        ("bench model_i model_v", "bench model_v resnet50 --mode training --dtype bfloat16"),
        resumes=True,
    ),
    "publish": Command(
        (
            "publish output/train/mine --to ./release --dry-run",
            "publish output/train/mine --to me/model_iv.cub200",
        ),
    ),
    "verify": Command(
        ("verify ./release --data data/cub", "verify hf-hub:me/model_iv.cub200 --data data/cub"),
    ),
    "convert": Command(
        (
            "convert checkpoint.pth out.safetensors --model model_iii",
            "convert last.pth.tar ema.safetensors --model model_iv --ema",
        ),
    ),
    "recipes": Command(("recipes cub200_224", "recipes cub200_224 --path"), networks=False),
}


def main(argv: Sequence[str] | None = None, script: str = "") -> int:
    """Runs a command line; returns the exit code.

    Args:
        argv: Words of the command line; by default those of the process.
        script: ``train.py`` or ``validate.py`` if that script was started, else empty.
    """
    return exit_code_of(script or PROGRAM, lambda: _run(sys.argv[1:] if argv is None else argv, script))


def _run(argv: Sequence[str], script: str) -> int | None:
    if "_ARGCOMPLETE" in os.environ:  # the shell requests completions
        from convnext_ablation.cli.completion import complete

        complete(_with_default_command, _parser)
    try:
        return _run_to_the_end(parsed(argv, script))
    except UserError:
        if is_first_process():
            raise
        return 2  # the first process prints the error
    finally:
        remove_empty_cache()


def _run_to_the_end(args: argparse.Namespace) -> int | None:
    try:
        with _missing_package_named():
            if check := getattr(asked, args.module, None):
                args.asked = check(args)
            if args.command.networks:
                load_networks(args.parser.prog)
            module = importlib.import_module(f"convnext_ablation.cli.{args.module}")
            code: int | None = module.run(args)
        return code
    except KeyboardInterrupt as error:
        if args.command.resumes:
            error.args += (KEPT,)
        raise


def parsed(argv: Sequence[str], script: str = "") -> argparse.Namespace:
    """Parses a command line.

    Returns:
        The arguments, and also the `command`, its `parser` and `module`, the name of the `program`, and the
        `words` that were typed.
    """
    words = [script.removesuffix(".py"), *argv] if script else _with_default_command(argv)
    args, unknown = _parser(words, script).parse_known_args(words)
    if unknown:
        name = unknown[0].partition("=")[0].removeprefix("--").replace("-", "_")
        if name in args.command.timms:
            raise timm_only(name, "command line", f"{args.module}.py")
        raise args.parser.unknown_argument(unknown[0])
    args.words = list(argv)
    return args


def _with_default_command(argv: Sequence[str]) -> list[str]:
    """Inserts a group's default command if none is named: ``study --data X`` means ``study run --data X``."""
    group = COMMANDS.get(argv[0]) if argv else None
    if isinstance(group, Mapping) and (len(argv) < 2 or argv[1] not in group):
        return [argv[0], next(iter(group)), *argv[1:]]
    return list(argv)


def _parser(words: Sequence[str], script: str = "") -> Parser:
    """Makes the parser of all commands, with arguments only for the named command."""
    parser = Parser(prog=PROGRAM, description="From ResNet-50 to ConvNeXt-T, one component at a time.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(program=script or PROGRAM, words=words)
    _add_commands(parser, COMMANDS, words, script)
    return parser


def _add_commands(
    parser: argparse.ArgumentParser,
    known: Mapping[str, Any],
    words: Sequence[str],
    script: str,
    group: str = "",
) -> None:
    commands, default = parser.add_subparsers(metavar="COMMAND", required=True), next(iter(known))
    for name, what in known.items():
        is_group = not isinstance(what, Command)
        module = f"{group}{name}".replace("-", "_")
        add = getattr(parsers, f"add_{module}_{next(iter(what))}" if is_group else f"add_{module}")
        command = commands.add_parser(name, help=add.__doc__, description=add.__doc__)
        if words[:1] != [name]:
            continue
        if is_group:
            _add_commands(command, what, words[1:], script, f"{name}_")
            continue
        examples = [f"{PROGRAM} {example}" for example in what.examples]
        if script:
            command.prog = script
            examples = [f"python {script} {example.partition(' ')[2]}" for example in what.examples]
        command.epilog = "\n  ".join(["examples:", *examples])
        command.set_defaults(parser=command, command=what, module=module)
        add(command)
        if group and name == default:
            command.prog = parser.prog  # omits the default command's name
            others = ", ".join(other for other in known if other != default)
            command.epilog += f"\n\nsee also: {parser.prog} {{{others}}}"


@contextmanager
def _missing_package_named() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.startswith("convnext_ablation"):
            raise
        raise UserError(f"{error.name} is missing; pip install 'convnext_ablation[study]'") from error


if __name__ == "__main__":
    sys.exit(main())
