"""What the documents show: settings that are valid, commands that exist with these options, links that lead somewhere.

The README's own blocks are run in tests/test_stages.py, those of docs/own-data.md in tests/preferences.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from dvc.cli.parser import get_main_parser
from ruamel.yaml import YAML

from ppd.cli import app
from ppd.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {
    *("git", "cd", "source", "pip", "cp", "rm", "mkdir", "hf", "helm", "docker", "kubectl", "make", "accelerate"),
    *("sbatch", "vllm"),
}
"""Programs that are not ours: what they are told is not checked here."""


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"```(\w+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [text for language, text in found if language in languages]


def commands() -> Iterator[Any]:
    for page in PAGES:
        for block in blocks(page, "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            for line in lines:
                words = shlex.split(line.partition(" #")[0], comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                for command in " ".join(map(shlex.quote, words)).split(" '&&' "):
                    if command:
                        yield pytest.param(shlex.split(command), id=f"{page.name}: {command[:50]}")


@pytest.mark.parametrize("words", commands())
def test_a_command_exists_and_takes_these_options(words: list[str]) -> None:
    match words:
        case ["ppd", *arguments]:
            command: click.Command = typer.main.get_command(app)
            while isinstance(command, click.Group):
                command, arguments = command.commands[arguments[0]], arguments[1:]
            command.make_context("ppd", list(arguments), resilient_parsing=False).close()
        case ["dvc", *arguments]:
            get_main_parser().parse_args(arguments)
        case ["python", script, *_]:
            assert (ROOT / script).is_file()
        case [name, *_]:
            assert name in ELSEWHERE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_are_shown_are_settings(page: Path) -> None:
    whole = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    for block in blocks(page, "yaml"):
        shown = YAML(typ="safe", pure=True).load(block.replace("…", "1"))
        for section in set(shown) & set(Settings.model_fields):
            merged = {**whole, section: {**whole[section], **shown[section]} if isinstance(shown[section], dict) else
                      shown[section]}  # fmt: skip
            Settings.model_validate(merged)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_tests_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|src|bench|orchestration|deploy|experiments)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(ppd(?:\.\w+)+)`", text):
        path = ROOT / "src" / Path(*name.split("."))
        in_parent = path.parent.with_suffix(".py").is_file() or (path.parent / "__init__.py").is_file()
        assert path.with_suffix(".py").is_file() or path.is_dir() or in_parent, name
