"""The facts to ask for: a table of countries, prompts as templates, and who the model knows, computed and never listed.

A template is a text with {country} in it, once or more often, that stops where the answer comes next, without a space.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from labkit.lm import LanguageModel

from .batch import Prompts

TABLE = Path(__file__).resolve().parents[2] / "data" / "countries.csv"


class Country(NamedTuple):
    """A row of data/countries.csv."""

    country: str
    capital: str
    language: str
    currency: str


class Relation(NamedTuple):
    """A question about a country, and the column of the table that answers it (None: no table, only the question)."""

    template: str
    column: str | None


TWO_SHOTS = "The capital of Iceland is Reykjavik. The capital of Estonia is Tallinn. "  # neither is in the table
FOUR_SHOTS = TWO_SHOTS + "The capital of Jamaica is Kingston. The capital of Latvia is Riga. "

TEMPLATES = {
    "plain": "The capital of {country} is",
    "city": "The capital city of {country} is",
    "called": "The capital of {country} is called",
    "the city of": "The capital of {country} is the city of",
    "name": "The name of the capital city of {country} is",
    "geography": "Geography facts: the capital of {country} is",
    "government": "The government of {country} is located in its capital city,",
    "2 shots": TWO_SHOTS + "The capital of {country} is",
    "4 shots": FOUR_SHOTS + "The capital of {country} is",
    "question": "Q: What is the capital of {country}?\nA: The capital of {country} is",
    "chat": "<|im_start|>user\nWhat is the capital of {country}?<|im_end|>\n"
    "<|im_start|>assistant\nThe capital of {country} is",
    "possessive": "{country}'s capital is",  # a trap: the topic is token 0, which this model uses as a sink
    "answer": "Question: What is the capital of {country}?\nAnswer:",  # a trap: what comes next is "The" or a new line
}

RELATIONS = {
    "capital": Relation("The capital of {country} is", "capital"),
    "language": Relation("The official language of {country} is", "language"),
    "currency": Relation("The official currency of {country} is the", "currency"),
    "largest city": Relation("The largest city of {country} is", None),
    "river": Relation("The largest river of {country} is", None),
    "president": Relation("The president of {country} is", None),
    "population": Relation("The population of {country} is", None),
    "flag": Relation("The flag of {country} is", None),
}


def countries() -> list[Country]:
    """Every row of data/countries.csv, by name; the head of that file says who is in it, and from where."""
    with TABLE.open(encoding="utf8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [Country(**row) for row in rows]


def prompts(template: str, names: Sequence[str]) -> list[str]:
    """The template with each name in place of {country}."""
    if "{country}" not in template:
        raise ValueError(f"template: expected {{country}} somewhere in it, got {template!r}")
    return [template.replace("{country}", name) for name in names]


def ask(lm: LanguageModel, template: str, names: Sequence[str]) -> Prompts:
    """The prompts of these names, ready to run, with each name as the topic of its prompt."""
    return Prompts(lm, prompts(template, names), topics=names)


def answers(lm: LanguageModel, words: Sequence[str]) -> Int[Tensor, " b"]:
    """The first token of each word after a space: what a prompt that stops before the space should be followed by."""
    empty = [word for word in words if not word.strip()]
    if empty or not words:
        raise ValueError(f"words: expected at least one, and none of them empty, got {list(words)!r}")
    return torch.stack([lm.encode(f" {word.strip()}")[0] for word in words])


def known(lm: LanguageModel, template: str, column: str = "capital") -> list[Country]:
    """The countries whose answer the model puts first after this template (its first token, if it has several)."""
    if column not in Country._fields[1:]:
        raise ValueError(f"column: expected one of {', '.join(Country._fields[1:])}, got {column!r}")
    table = countries()
    right = ask(lm, template, [c.country for c in table]).logits().argmax(-1)
    wanted = answers(lm, [getattr(c, column) for c in table])
    return [c for c, yes in zip(table, (right == wanted).tolist(), strict=True) if yes]
