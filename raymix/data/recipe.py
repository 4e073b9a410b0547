"""Mixtures as text: which data sets, in which shares, which of their episodes, with which rewards.

    hopper/random + hopper/expert                          all of both
    0.3*hopper/random + 0.7*hopper/expert                  as much as there is with 30 % of the transitions random
    hopper/expert[transitions=100000]                      whole episodes, drawn at random, up to that many transitions
    hopper/mixed[returns=0.9..1, source=expert|medium]     the best tenth by return, of two of its sources
    (walker2d/forward + walker2d/jump)[reward=walker2d-jump]

A recipe gives the same rows everywhere: `seed=N` in an option list (0 where it is left out) decides what is drawn, by
a stream of numbers that NumPy keeps the same between versions. The same as a dictionary, for scripts:

    {"mix": [{"data": "hopper/random", "weight": 0.3}, {"data": "hopper/expert", "weight": 0.7, "transitions": 1000}]}

A path with any of `+*()[]` in it is written between double quotes, and so is a source's name with any of `,|[]`:
`hopper/mixed[source="a,b"|c]`; a double quote inside is written twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raymix.types import UsageError


@dataclass(frozen=True)
class Options:
    """What is taken of a data set or mixture, and what is done to its rewards, in this order."""

    observations: str | None = None
    """How observations that are dictionaries become vectors: a key of `raymix.envs.flatten.RULES`."""
    source: tuple[str, ...] = ()
    """Names of the sources whose episodes are kept; all where empty."""
    returns: tuple[float, float] | None = None
    """Episodes whose return is between these two quantiles of all returns (both included)."""
    episodes: int | None = None
    """At most so many episodes, drawn at random."""
    transitions: int | None = None
    """Whole episodes, drawn at random, up to so many transitions."""
    per_source: int | None = None
    """The same as `transitions`, for each source."""
    reward: str | None = None
    """A key of `raymix.data.rewards.REWARDS`."""
    reward_scale: float | None = None
    """Factor of every reward, after `reward`."""
    reward_shift: float | None = None
    """Added to every reward, after the factor."""
    seed: int | None = None
    """Of what is drawn; None is 0."""

    def __str__(self) -> str:
        parts = [f"{name}={_WRITE[name](value)}" for name in _READ if (value := getattr(self, name)) not in (None, ())]
        return f"[{', '.join(parts)}]" if parts else ""


@dataclass(frozen=True)
class Term:
    """One part of a mixture: a data set's name, or a mixture, with what is taken of it."""

    data: str | Recipe
    weight: float | None = None
    """Its share of the transitions, relative to the other parts'; None in a mixture that takes all of each."""
    options: Options = field(default_factory=Options)

    def __str__(self) -> str:
        weight = "" if self.weight is None else f"{_shortest(self.weight)}*"
        data = f"({self.data})" if isinstance(self.data, Recipe) else _quoted(self.data)
        return f"{weight}{data}{self.options}"


@dataclass(frozen=True)
class Recipe:
    """A mixture; `str` writes it in the one form that means it."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        weighted = [term for term in self.terms if term.weight is not None]
        if weighted and len(weighted) < len(self.terms):
            bare = next(term for term in self.terms if term.weight is None)
            raise UsageError(f"{bare} in {self} has no weight but other parts have; give every part one, or none")

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))

    def named(self, rename: Callable[[str], str]) -> Recipe:
        """The same with other names of data sets."""
        return Recipe(
            tuple(
                replace(term, data=term.data.named(rename) if isinstance(term.data, Recipe) else rename(term.data))
                for term in self.terms
            )
        )


def parse(recipe: str | Mapping[str, Any]) -> Recipe:
    """A recipe from its text or dictionary; names are not looked up.

    Raises:
        UsageError: what no recipe says.
    """
    return _Parser(recipe).parse() if isinstance(recipe, str) else _from_mapping(recipe)


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise ValueError("a whole number of at least 1, such as 1000")
    return int(text)


def _seed(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise ValueError("a whole number from 0 on")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
        raise ValueError("a number such as 0.1")
    return float(text)


def _quantiles(text: str) -> tuple[float, float]:
    low, dots, high = text.partition("..")
    try:
        pair = (_number(low), _number(high))
    except ValueError:
        pair = (1.0, 0.0)
    if not dots or not 0 <= pair[0] < pair[1] <= 1:
        raise ValueError("two quantiles such as 0.9..1")
    return pair


_QUOTED = r'"(?:[^"]|"")*"'
_NAME = rf"(?:{_QUOTED}|[^|\"\s](?:[^|\"]*[^|\"\s])?)"


def _names(text: str) -> tuple[str, ...]:
    if not re.fullmatch(rf"\s*{_NAME}\s*(?:\|\s*{_NAME}\s*)*", text):
        raise ValueError('names separated by |, such as expert|medium, those with any of ,|[] such as "a,b"')
    names = re.findall(_NAME, text)
    return tuple(name[1:-1].replace('""', '"') if name.startswith('"') else name for name in names)


def _written_names(names: Iterable[str]) -> str:
    doubled = (name.replace('"', '""') for name in names)
    return "|".join(f'"{name}"' if re.search(r'[,|\[\]"]|^\s|\s$|^$', name) else name for name in doubled)


def _word(text: str) -> str:
    if not re.fullmatch(r"[\w-]+", text):
        raise ValueError("one word")
    return text


def _shortest(number: float) -> str:
    """A number in the fewest digits that mean it, without a '+', which separates data sets."""
    return repr(float(number)).removesuffix(".0").replace("e+", "e")


_READ: dict[str, Callable[[str], Any]] = {
    "observations": _word,
    "source": _names,
    "returns": _quantiles,
    "episodes": _whole,
    "transitions": _whole,
    "per_source": _whole,
    "reward": _word,
    "reward_scale": _number,
    "reward_shift": _number,
    "seed": _seed,
}
_WRITE: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(_READ, str),
    "source": _written_names,
    "returns": lambda pair: f"{_shortest(pair[0])}..{_shortest(pair[1])}",
    "reward_scale": _shortest,
    "reward_shift": _shortest,
}


def _options(pairs: Mapping[str, str], whole: str) -> Options:
    values = {}
    for name, text in pairs.items():
        if name not in _READ:
            raise UsageError(f"{name!r} in {whole!r} is no option of a data set; there are: {', '.join(_READ)}")
        try:
            values[name] = _READ[name](text)
        except ValueError as problem:
            raise UsageError(f"{name}={text} in {whole!r} takes {problem}") from None
    return Options(**values)


def _from_mapping(recipe: Mapping[str, Any]) -> Recipe:
    keys = {"mix", *_READ}
    if not isinstance(recipe, Mapping) or not recipe.keys() <= keys or not isinstance(recipe.get("mix"), list | tuple):
        raise UsageError(
            f"{recipe!r} is no recipe; give a text, or a dictionary with a list 'mix' and options ({', '.join(_READ)})"
        )
    terms = []
    for part in recipe["mix"]:
        part = {"data": part} if isinstance(part, str) else part
        if not isinstance(part, Mapping) or not isinstance(part.get("data"), str | Mapping):
            raise UsageError(f"{part!r} is no part of a mixture; give a name, or a dictionary with 'data'")
        data, weight = part["data"], part.get("weight")
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float)):
            raise UsageError(f"weight={weight!r} of {data!r} takes a number above 0")
        options = {key: value for key, value in part.items() if key not in ("data", "weight")}
        name: str | Recipe = data if isinstance(data, str) else _from_mapping(data)
        terms.append(_term(name, weight, _options(_as_text(options), str(part)), str(recipe)))
    if not terms:
        raise UsageError(f"{recipe!r} mixes nothing; name at least one data set")
    own = _options(_as_text({key: value for key, value in recipe.items() if key != "mix"}), str(recipe))
    inner = Recipe(tuple(terms))
    return Recipe((Term(inner, options=own),)) if own != Options() else inner


def _as_text(options: Mapping[str, Any]) -> dict[str, str]:
    """Values of a dictionary as the text form writes them: lists of names by |, pairs by .., numbers in full."""
    written = {}
    for name, value in options.items():
        if isinstance(value, list | tuple):
            value = _written_names(map(str, value)) if name == "source" else "..".join(map(str, value))
        written[name] = str(value)
    return written


def _term(data: str | Recipe, weight: float | None, options: Options, whole: str) -> Term:
    if weight is not None and not 0 < weight < float("inf"):
        raise UsageError(f"the weight {weight:g} in {whole!r} must be a number above 0")
    return Term(data, weight, options)


_SPECIAL = '+*()[]"'


def _quoted(name: str) -> str:
    return f'"{name}"' if any(character in _SPECIAL for character in name) else name


class _Parser:
    """Recursive descent over the text form."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def parse(self) -> Recipe:
        recipe = self._recipe()
        if self._at < len(self._text):
            raise self._problem("a '+' between data sets, or the end")
        return recipe

    def _recipe(self) -> Recipe:
        terms = [self._one_term()]
        while self._taken("+"):
            terms.append(self._one_term())
        return Recipe(tuple(terms))

    def _one_term(self) -> Term:
        weight = None
        if match := self._matched(r"([\d.]+(?:[eE][+-]?\d+)?|[\d.eE-]+)\s*\*"):
            try:
                weight = _number(match[1])
            except ValueError:
                raise self._problem("a weight such as 0.3 before '*'") from None
        data: str | Recipe
        if self._taken("("):
            data = self._recipe()
            if not self._taken(")"):
                raise self._problem("a ')'")
        elif match := self._matched(r'"([^"]+)"') or self._matched(r'([^+*()\[\]"]*[^\s+*()\[\]"])'):
            data = match[1]
        else:
            raise self._problem("the name of a data set")
        options = self._pairs() if self._taken("[") else {}
        return _term(data, weight, _options(options, self._text), self._text)

    def _pairs(self) -> dict[str, str]:
        pairs: dict[str, str] = {}
        while match := self._matched(rf"(\w+)\s*=\s*((?:{_QUOTED}|[^,\[\]\"])*(?:{_QUOTED}|[^,\[\]\"\s]))"):
            if match[1] in pairs:
                raise UsageError(f"{match[1]} is set twice in {self._text!r}; set it once")
            pairs[match[1]] = match[2]
            if not self._taken(","):
                break
        if not pairs or not self._taken("]"):
            raise self._problem("options such as [transitions=1000, seed=1]")
        return pairs

    def _matched(self, pattern: str) -> re.Match[str] | None:
        match = re.compile(rf"\s*{pattern}\s*").match(self._text, self._at)
        if match:
            self._at = match.end()
        return match

    def _taken(self, character: str) -> bool:
        return self._matched(re.escape(character)) is not None

    def _problem(self, expected: str) -> UsageError:
        rest = self._text[self._at :].strip()
        where = f"before {rest!r}" if rest else "at its end"
        return UsageError(f"{self._text!r} is no recipe of data sets: {where} it needs {expected}")
