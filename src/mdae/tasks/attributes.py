"""Who a subject is, from a row of whatever table: sex, age band and site, by which scores are told apart."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from mdae.tasks.record import MISSING

# Column names without what is no letter; the first that a row has a value in counts.
SEX = ("sex", "gender", "patientsex")
AGE = ("age", "ageatscanyears", "ageatmri", "ageatscan", "ageyears", "agey", "patientage")
SITE = ("site", "siteid", "centre", "center", "hospital", "institution", "scanner")
MALE = ("m", "male", "man", "männlich", "maennlich", "mann", "homme", "masculin", "hombre", "masculino")
FEMALE = ("f", "female", "woman", "w", "weiblich", "frau", "femme", "féminin", "mujer", "femenino")
WORDS = dict.fromkeys(MALE, "male") | dict.fromkeys(FEMALE, "female")
BANDS = (0, 18, 40, 60, 75)  # years from which a band begins


def attributes_of(row: Mapping[str, str]) -> dict[str, str]:
    """`sex`, `age` (a band of years) and `site` of a row; what it does not tell is left out."""
    plain = {re.sub(r"[^a-z]", "", str(name).casefold()): str(cell).strip() for name, cell in row.items()}
    sex = WORDS.get(_first(plain, SEX).casefold(), "")
    found = {"sex": sex, "age": _band(_first(plain, AGE)), "site": _first(plain, SITE)}
    return {name: value for name, value in found.items() if value}


def _first(plain: Mapping[str, str], names: tuple[str, ...]) -> str:
    cells = (plain.get(name, "") for name in names)
    return next((cell for cell in cells if cell and cell.casefold() not in MISSING), "")


def _band(cell: str) -> str:
    """The band that an age in years is in, "" for no age."""
    number = re.fullmatch(r"0*(\d+(?:[.,]\d+)?)\s*[yY]?", cell)  # DICOM writes 063Y
    years = float(number[1].replace(",", ".")) if number else math.nan
    if not 0 <= years < 130:
        return ""
    low = max(band for band in BANDS if band <= years)
    above = [band for band in BANDS if band > years]
    return f"{low} to {above[0] - 1}" if above else f"{low} and over"
