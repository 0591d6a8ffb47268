"""Which preprocessing counts where several places state one, and how a user says it.

    what the user says (options, a file, another model)  >  what the model's factory returned
        >  what a file's metadata states  >  what is customary for the data

Mean, deviation and scale are one statement: who says one of them says all three, and those left out are 0, 1
and 1/255. Size, crop and channel order are said one by one.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from mcc.data.load import UNSEEN, load_data
from mcc.data.module import DataModule
from mcc.data.preprocessing import Channels, Preprocessing
from mcc.errors import DataError, UsageError
from mcc.ir.feed import Taken
from mcc.ir.json_file import parse_json, read_bounded

OWN = ("digits", "cifar10", "imagefolder")
"""Data of mcc: where nothing states a preprocessing, what is customary for these is an assumption."""

NORMALISATION = ("mean", "std", "scale")
FIELDS = tuple(field.name for field in fields(Preprocessing))


@dataclass(frozen=True)
class Stated:
    """A preprocessing and where it comes from.

    Attributes:
        source: in words, as `the factory of the model`.
        assumed: whether nobody stated it.
    """

    preprocessing: Preprocessing
    source: str
    assumed: bool = False

    @property
    def words(self) -> str:
        """One line for people: the arithmetic and where it comes from."""
        return f"{self.preprocessing.words} ({self.source})"

    def to_json(self) -> dict[str, Any]:
        """JSON values, `source` among them."""
        return {**self.preprocessing.to_json(), "source": self.source}


@dataclass(frozen=True)
class Asked:
    """What the user says about the pictures; None where nothing is said.

    Attributes:
        whole: of a file or another model, or the `preprocessing` of the Python API.
        mean, std, scale, size, crop, channels: as in `Preprocessing`, each over what `whole` says.
    """

    whole: Stated | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    size: tuple[int, int] | None = None
    crop: float | None = None
    channels: Channels | None = None

    @property
    def said(self) -> dict[str, Any]:
        """The single values that were said."""
        return {name: getattr(self, name) for name in FIELDS if getattr(self, name) is not None}

    @property
    def anything(self) -> bool:
        """Whether the user says anything at all."""
        return self.whole is not None or bool(self.said)

    def over(self, stated: Stated | None) -> Stated | None:
        """What counts where others state `stated`; None where the user leaves the normalisation to the data.

        Raises:
            DataError: values that no preprocessing can have.
        """
        below, said = self.whole or stated, self.said
        if not said:
            return below
        says_normalisation = any(name in said for name in NORMALISATION)
        if below is None and not says_normalisation:
            return None
        base = below.preprocessing if below is not None else Preprocessing()
        if says_normalisation:
            base = Preprocessing(size=base.size, crop=base.crop, channels=base.channels)
        words = f"given: {', '.join(said)}"
        if below is not None and base != Preprocessing():
            words += f"; the rest: {below.source}"
        return Stated(replace(base, **said), words)


NOTHING_SAID = Asked()


def asked_for(given: Preprocessing | Asked | None) -> Asked:
    """What a caller of the Python API asks for."""
    if isinstance(given, Preprocessing):
        return Asked(Stated(given, "given"))
    return given or NOTHING_SAID


def load_stated(
    spec: str,
    *,
    seed: int = 0,
    input_shape: Taken | None = None,
    stated: Stated | None = None,
    asked: Asked | None = None,
) -> tuple[DataModule, Stated]:
    """Data prepared as the user says, else as the model states, else as is customary; and which it was.

    Args:
        spec, seed, input_shape: as in `mcc.data.load_data`.
        stated: by the model.
        asked: by the user.

    Raises:
        UsageError: the data prepares its inputs itself, in another way than the user asks for.
        MccError: as `load_data`.
    """
    asked = asked or NOTHING_SAID
    found = asked.over(stated)
    if found is None and asked.anything:
        found = asked.over(_own(spec, load_data(spec, seed=seed, input_shape=input_shape)))
    given = None if found is None else found.preprocessing
    data = load_data(spec, seed=seed, input_shape=input_shape, preprocessing=given)
    if found is None:
        return data, _own(spec, data)
    if data.preprocessing == found.preprocessing.for_channels(data.first_shape[0]):
        return data, found
    if asked.anything:
        raise UsageError(
            f"prepares its inputs itself ({data.preprocessing.words}), not as you ask ({found.words})",
            where=data.name,
            hint="give its factory a parameter `preprocessing` and hand that on, or leave the options out",
        )
    return data, _own(spec, data)


def stated_by_object(data: DataModule, input_shape: Taken, asked: Asked) -> Stated:
    """The preprocessing of a data module that was handed over as it is.

    Raises:
        UsageError: the user asks for another one.
        DataError: its inputs are not those that the network takes.
    """
    if asked.anything:
        raise UsageError(
            "prepares its inputs itself", where=data.name, hint="leave out what says how, or name a factory"
        )
    data.for_inputs(input_shape)
    return Stated(data.preprocessing, f"of the data {data.name}")


def is_own(spec: str) -> bool:
    """Whether data comes with mcc; all of it is for classification."""
    return spec.removeprefix(UNSEEN).partition(":")[0] in OWN


def _own(spec: str, data: DataModule) -> Stated:
    """The preprocessing that data has where nobody states one."""
    if spec.partition(":")[0] in OWN:
        return Stated(data.preprocessing, f"assumed: nothing states it, customary for {data.name}", True)
    return Stated(data.preprocessing, f"of the data {data.name}")


def read_preprocessing(path: Path) -> Preprocessing:
    """A preprocessing from a JSON or TOML file with the fields of `Preprocessing`, those left out as usual.

    A `report.json` or the `--json` of `mcc evaluate` will do: what they hold under `preprocessing` is taken.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    try:
        text = read_bounded(path, hint=_FORM).decode("utf-8")
        raw: Any = tomllib.loads(text) if path.suffix == ".toml" else parse_json(text)
    except (RecursionError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot be read: {reason}", where=str(path), hint=_FORM) from error
    if isinstance(raw, list) and len(cast(list[Any], raw)) == 1:
        raw = raw[0]
    if isinstance(raw, dict) and isinstance(cast(dict[str, Any], raw).get("preprocessing"), dict):
        raw = raw["preprocessing"]
    try:
        return preprocessing_from(raw)
    except DataError as error:
        raise DataError(error.message, where=str(path), hint=error.hint or _FORM) from error


_FORM = 'write for example {"mean": [0.5], "std": [0.25], "size": [32, 32]}'


def preprocessing_from(raw: Any) -> Preprocessing:
    """What `Preprocessing.to_json` gave, fields left out as usual. Raises DataError for anything else."""
    if not isinstance(raw, dict) or not raw:
        raise DataError("holds no preprocessing", hint=_FORM)
    held = {str(k): v for k, v in cast(dict[Any, Any], raw).items() if k != "source"}
    unknown = sorted(set(held) - set(FIELDS))
    if unknown:
        raise DataError(f"holds the unknown field {unknown[0]!r}", hint=f"there is {', '.join(FIELDS)}")
    for name in ("mean", "std", "size"):
        value = held.get(name)
        if isinstance(value, list):
            held[name] = tuple(cast(list[Any], value))
        elif isinstance(value, int | float) and name != "size":
            held[name] = (value,)
        elif value is not None:
            raise DataError(f"{name} is {value!r}, which is no list of numbers", hint=_FORM)
    size = held.get("size")
    if size is not None and not all(isinstance(v, int) and not isinstance(v, bool) for v in size):
        raise DataError(f"the size {list(size)} is not two whole numbers", hint="give height and width")
    return Preprocessing(**{k: v for k, v in held.items() if v is not None})
