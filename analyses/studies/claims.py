"""A claims file: what is trained, what is asked, what is read, and what is claimed of it; nothing but data.

title = "…"
seeds = [0, 1, 2]
[experiment]            # what all arms share: fields of landscape.Experiment that decide the numbers
[execution]             # and those that do not: device, checkpoint_every, probe_every, …
[arms.sam]              # what each arm changes, and the label it carries in tables and figures
label = "SAM"
optimizer = "sam"
[asks.psf]              # an analysis of every arm's checkpoints, or of `arms`
analysis = "psf"        # left out, it is the ask's own name
steps = "all"           # all, first, last or a list
options = {rho = 0.05}
[values.psf]            # one number of one run; those of every training are there without being said
ask = "psf"
variable = "l2_psf_mean"
[[claims]]              # "the statistic of the value over arms is less, or greater, than nothing"
id = "…"
value = "test_accuracy"
arms = ["sam", "sgd"]
direction = "greater"
family = "all"          # claims judged together, so that a family errs in 5 % of studies
diverged = 0.1          # the value of a run that diverged; left out, such a run leaves the claim open
[scales.tiny]           # see scale.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.studies.claim import Arm, Ask, Claim, Value
from analyses.studies.scale import PAPER, SCALES, Scale, differences
from analyses.studies.typed import one_of, plain, record, seeds_of, typed
from landscape import limited_toml
from landscape.experiment import Experiment
from landscape.recipe import Recipe, of_values

_KEYS = {"title", "about", "scale", "seeds", "experiment", "execution", "arms", "asks", "values", "claims", "scales"}
_OLDER = {"methods", "analyses", "sharpness_radius"}

BEGINNING = (  # of every training; the first columns of a table, and the last
    Value("test_accuracy", "test accuracy, final", "%", ".2%", metric="test_accuracy"),
    Value("peak_test_accuracy", "test accuracy, peak", "%", ".2%", metric="test_accuracy", at="peak"),
    Value("train_loss", "train loss", "nats", ".3f", metric="train_loss"),
)
END = (
    Value("gradient_evaluations", "gradients", "batches", ".0f", metric="gradient_evaluations"),
    Value("seconds", "training time", "s", ".1f", metric="seconds"),
)


@dataclass(frozen=True)
class Claims:
    """A whole claims file, at one scale."""

    name: str
    text: str  # the file, word for word
    title: str
    about: str
    scale: str
    seeds: tuple[int, ...]
    experiment: dict[str, Any]
    execution: dict[str, Any]
    arms: dict[str, Arm]
    asks: dict[str, Ask]
    values: dict[str, Value]
    claims: tuple[Claim, ...]
    transformed: tuple[str, ...] = ()  # what the scale changes of the paper's protocol, in words

    def recipe_of(self, arm: str, seed: int) -> Recipe:
        """The experiment of one run, and how it is carried out."""
        return of_values(self.experiment | self.execution | self.arms[arm].changes | {"seed": seed})

    def experiment_of(self, arm: str, seed: int) -> Experiment:
        """The experiment of one run."""
        return self.recipe_of(arm, seed).experiment

    @property
    def testable(self) -> tuple[Claim, ...]:
        """The claims that can be seen at this scale."""
        return tuple(claim for claim in self.claims if self.scale not in claim.not_testable)

    @property
    def declared(self) -> list[Value]:
        """The values that the file itself says."""
        return [value for value in self.values.values() if value not in (*BEGINNING, *END)]

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds of an arm: those of the claims that speak of it; of the file where none does; none if no claim can."""
        speaking = [claim for claim in self.claims if arm in claim.arms]
        if not speaking:
            return self.seeds
        found = (claim.seeds or self.seeds for claim in speaking if claim in self.testable)
        return tuple(dict.fromkeys(seed for seeds in found for seed in seeds))

    @classmethod
    def read(cls, path: Path, scale: str | None = None) -> Claims:
        """The claims in a TOML file at a scale, the file's own if left out; what is unknown or missing is refused by name."""
        try:
            text = path.read_text(encoding="utf-8")
        except ValueError as error:
            raise ValueError(f"{path}: expected claims as TOML: {error}") from error
        return cls.parse(path.stem, text, scale, str(path))

    @classmethod
    def parse(cls, name: str, text: str, scale: str | None = None, where: str = "") -> Claims:
        """As `read`, of a text that stood in the file `where`."""
        try:
            content = limited_toml.loads(text)
        except ValueError as error:
            raise ValueError(f"{where or name}: expected claims as TOML: {error}") from error
        if set(content) & _OLDER:
            raise ValueError(
                f"{where or name}: a study of an older release ({', '.join(sorted(set(content) & _OLDER))}); write "
                "[methods.x] as [arms.x], [[analyses]] as [asks.NAME], and a claim's quantity, method and versus as "
                'value = "…" and arms = ["method", "versus"]; `landscape reproduce --help` names an example'
            )
        missing = {"title", "seeds", "arms"} - set(content)
        if set(content) - _KEYS or missing:
            raise ValueError(
                f"{where or name}: expected the keys {', '.join(sorted(_KEYS))}; "
                f"got unknown {sorted(set(content) - _KEYS)}, missing {sorted(missing)}"
            )
        try:
            return _claims(name, text, content, scale)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where or name}: {error}") from error


def _claims(name: str, text: str, content: dict[str, Any], scale: str | None) -> Claims:
    def table(key: str) -> dict[str, Any]:
        return typed(dict, content.get(key, {}), key)

    scales = {key: record(Scale, row, name=key) for key, row in table("scales").items()}
    known = [key for key in SCALES if key in scales or key == PAPER]
    own = typed(str, content.get("scale", PAPER), "scale")
    chosen = one_of(own if scale is None else scale, dict.fromkeys(known), f"{name}: scale")
    at = scales.get(chosen)

    rows = {key: dict(typed(dict, row, f"arm {key!r}")) for key, row in table("arms").items()}
    asked = {key: dict(typed(dict, row, f"ask {key!r}")) for key, row in table("asks").items()}
    experiment, execution = table("experiment"), table("execution")
    seeds = seeds_of(content["seeds"])
    transformed: list[str] = []
    if at is not None:
        transformed += differences({"seeds": list(seeds)}, {"seeds": list(at.seeds or seeds)})
        transformed += differences(experiment, experiment | at.experiment)
        for kind, ours, theirs in (("arm", rows, at.arms), ("ask", asked, at.asks)):
            for key, changes in theirs.items():
                one_of(key, ours, f"scale {chosen!r}: {kind}s")
                transformed += differences(ours[key], ours[key] | changes, f"{kind} {key}: ")
                ours[key] |= changes
        seeds, experiment, execution = at.seeds or seeds, experiment | at.experiment, execution | at.execution

    arms = {}
    for key, row in rows.items():
        label = typed(str, row.get("label", key), f"label of arm {key!r}")
        arms[plain(key, "arm")] = Arm(key, label, {k: v for k, v in row.items() if k != "label"})
    folded = Counter(key.casefold() for key in arms)
    if not arms or max(folded.values()) > 1:
        raise ValueError(f"expected arms whose names differ in more than case, got {sorted(arms)}")
    labels = Counter(arm.label for arm in arms.values())
    if max(labels.values()) > 1:
        raise ValueError(f"expected another label for each arm, got {labels.most_common(1)[0][0]!r} twice")
    asks = {key: record(Ask, row, name=key) for key, row in asked.items()}
    own_values = {key: record(Value, row, name=key) for key, row in table("values").items()}
    values = {value.name: value for value in BEGINNING} | own_values
    values |= {value.name: value for value in END if value.name not in values}
    claims = tuple(record(Claim, row) for row in typed(list, content.get("claims", []), "claims"))
    twice = [key for key, count in Counter(claim.id for claim in claims).items() if count > 1]
    if twice:
        raise ValueError(f"expected another id for each claim, got {twice[0]!r} twice; tell them apart by `id`")
    for ask in asks.values():
        _known(ask.arms or (), arms, f"ask {ask.name!r}: arms")
    for value in own_values.values():
        if value.ask is not None:
            one_of(value.ask, asks, f"value {value.name!r}: ask")
    for claim in claims:
        _known(claim.arms, arms, f"claim {claim.id!r}: arms")
        _known((claim.value, *filter(None, [claim.against])), values, f"claim {claim.id!r}: value")
        _known(claim.not_testable, dict.fromkeys(SCALES), f"claim {claim.id!r}: not_testable")
        for key in filter(None, (claim.value, claim.against)):
            _asked_of(claim, values[key], asks)
    return Claims(
        name=name,
        text=text,
        title=typed(str, content["title"], "title"),
        about=typed(str, content.get("about", ""), "about"),
        scale=chosen,
        seeds=seeds,
        experiment=experiment,
        execution=execution,
        arms=arms,
        asks=asks,
        values=values,
        claims=claims,
        transformed=((at.about,) if at is not None and at.about else ()) + tuple(transformed),
    )


def _known(names: Iterable[str], known: dict[str, Any], what: str) -> None:
    for name in names:
        one_of(name, known, what)


def _asked_of(claim: Claim, value: Value, asks: dict[str, Ask]) -> None:
    """Whether a claim's value is asked of its arms, and at the checkpoint that it reads."""
    if value.ask is None:
        return
    ask = asks[value.ask]
    missing = [arm for arm in claim.arms if ask.arms is not None and arm not in ask.arms]
    if missing:
        raise ValueError(
            f"claim {claim.id!r}: {value.name} needs the ask {ask.name!r}, which is not asked of the arm {missing[0]!r}; "
            f"add it to its arms"
        )
    if (value.at == "last" and ask.steps == "first") or (value.at == "first" and ask.steps == "last"):
        raise ValueError(
            f"claim {claim.id!r} reads the {value.at} checkpoint; {ask.name} is asked at the {ask.steps} alone"
        )
