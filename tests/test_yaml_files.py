"""YAML: one meaning or one line, for recipes, experiments, designs and values of a command line."""

import os

import pytest

from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.yaml_design import read_design
from convnext_ablation.study.experiment_file import _read as read_experiment
from convnext_ablation.training.settings import read_recipe
from convnext_ablation.yaml_files import parse_yaml

DOUBLING = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
REFUSED = {
    "a key twice": (b"epochs: 3\nepochs: 4", "'epochs' appears twice; leave one .*line 2"),
    "a key twice within": (b"model_kwargs: {a: 1, a: 2}", "'a' appears twice"),
    "minutes": (b"epochs: 1:30", "1:30 would be read to the base 60; write it otherwise .*line 1"),
    "minutes with a fraction": (b"lr: 1:30.5", "would be read to the base 60"),
    "octal": (b"epochs: 010", "010 would be read to the base 8"),
    "aliases that double": (DOUBLING.encode(), "aliases repeat more than 100,000 values"),
    "a list that holds itself": (b"a: &a [*a]", "aliases repeat more than 100,000 values"),
    "brackets": (b"a: " + b"[" * 5000 + b"]" * 5000, "more than 100 lists or mappings in one another"),
    "lists in lists": (b"- " * 5000, "more than 100 lists or mappings in one another"),
    "Latin-1": ("# Größe\nepochs: 3".encode("latin-1"), "not valid YAML, which is text in UTF-8"),
    "NUL": (b"epochs: 3\0", "not valid YAML: unacceptable character"),
    "long": (b"#" * (300 << 10), "has 307,200 bytes; a YAML file may have 262,144"),
    "an object": (b"epochs: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "digits": (b"epochs: " + b"9" * 5000, "not valid YAML: "),
    "no date": (b"output: 2026-13-45", "not valid YAML: "),
    "a list as a key": (b"{[a]: 1}", "not valid YAML: .*unhashable key"),
}


@pytest.mark.parametrize("read", [read_recipe, read_experiment, lambda file: read_design(file, "_atto")])
@pytest.mark.parametrize("case", REFUSED)
def test_yaml_that_is_no_good_is_one_line(tmp_path, case, read):
    content, message = REFUSED[case]
    (path := tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path}: .*{message}") as caught:
        read(str(path))
    assert len(str(caught.value)) <= 360


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, make):
    make(path := tmp_path / "a.yaml")
    with pytest.raises(UserError, match=r"a\.yaml: is no file; give a YAML file"):
        read_recipe(str(path))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &a {lr: 0.1}\nb: {<<: *a, lr: 0.2}", {"a": {"lr": 0.1}, "b": {"lr": 0.2}}),
        ("[0, 00, 0.5, 1e-3, 1.0e-3, -0.0]", [0, 0, 0.5, "1e-3", 1e-3, -0.0]),
        ("'1:30'", "1:30"),
        ("", None),
    ],
)
def test_usual_yaml_is_read_as_ever(text, value):
    assert parse_yaml(text, "here") == value
