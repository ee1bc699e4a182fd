"""What the names of files and folders tell: BIDS's labels, contrasts, visits, and which part of them says who it is."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

SEPARATOR = re.compile(r"([-_. +]+)")
# BIDS's entities after which a value follows; what stands before them belongs to the value before, hyphens too.
ENTITIES = (
    "sub|ses|sample|task|tracksys|acq|nuc|voi|ce|trc|stain|rec|dir|run|mod|echo|flip|inv|mt|part|proc|hemi|space"
    "|split|recording|chunk|seg|res|den|label|desc|atlas|tpl|cohort|from|to|mode"
)
NEXT_ENTITY = re.compile(rf"_(?=(?:{ENTITIES})-)")
SUBJECT_FOLDER = re.compile(r"sub-(?=.)", re.IGNORECASE)
SESSION_FOLDER = re.compile(r"ses-(?=.)", re.IGNORECASE)
SUFFIX = re.compile(r"_([A-Za-z][A-Za-z0-9]*)$")

CONTRAST = re.compile(
    r"(3d)?(t1|t2)(w|wi|c|ce|cw|n|f|gd|post|pre|se|tse|fl|flair|fse|ir|star|map|rho|weighted)?"
    r"|t2starw?|t2flair|(3d)?flair|pdw?|pdt2|swi|qsm|gre|tse|fse|dwi|dti|adc|fa|md|b0|b1000|trace|bold|fmri|rest|asl|cbf|cbv"
    r"|mra|mrv|tof|mpr|mp2?rage|unit1|bravo|spgr|tfe|epi|cta?|cbct|ncct|cect|ctp|pet|fdg|suv|mri?|xr|us",
    re.IGNORECASE,
)
# Beside a contrast these are part of it; alone they say nothing of it.
DETAIL = re.compile(
    r"pre|post|gd|ce|contrast|noncontrast|[23]d|ax|axial|tra|sag|sagittal|cor|coronal|iso|\d+mm|weighted|w|run\d*|bias"
    r"|brain|stripped|bet|n4|reg|defaced|anon|native|orig|img|image|images|scan|nii|nifti|raw|data|vol|volume",
    re.IGNORECASE,
)
# Folders that hold scans of a kind, or scans at all, and are nobody.
INSIDE = re.compile(r"anat|func|fmap|perf|mri|dicom|dcm|nifti|nii|structural|anatomical", re.IGNORECASE)
NEUTRAL = re.compile(
    r"images?(tr|ts|va|val)?|imgs?|scans?|volumes?|data|raw(data)?|bids|dataset|train(ing)?|test(ing)?|val(id(ation)?)?|nifti"
    r"|nii|dicom",
    re.IGNORECASE,
)
# The rest of a file's name that says no more than that it is a scan.
GENERIC = re.compile(
    r"((imag(e|es|ing)|img|scan|vol|volume|brain|brainmask|head|anat|anatomy|anatomical|orig|nu|norm|rawavg|data|mri?"
    r"|structural|raw)([-_. ]|$))*",
    re.IGNORECASE,
)
# A name that a scanner or a viewer gives the scans of one person, one after the other.
NUMBERED_SCAN = re.compile(
    r"(im|ima|img|image|vol|volume|scan|s|se|ser|series|seq|sequence|acq|run|file|export|dcm|t[12]w?|mri?|ct)?"
    r"[-_. ]*\d+",
    re.IGNORECASE,
)
DATE = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[1-9]|[12]\d|3[01])([-.])(?:0[1-9]|1[0-2])\2(?:19|20)\d\d)"
    r"(?:[-_T ]?(?:[01]\d|2[0-3])[-_:h.]?[0-5]\d(?:[-_:.]?[0-5]\d(?:\.\d+)?)?)?(?!\d)"
)
YEAR = re.compile(r"(19|20)\d\d")
VISIT = re.compile(
    r"(?:(?:ses|session|visit|vis|timepoint|tp|time|wave|month|mo|m|week|wk|year|yr|y|day|d|v|mr|fu|follow-?up)"
    r"[-_ ]?\d{1,3}"
    r"|session|baseline|bl|follow-?up|fu|screening|retest)",
    re.IGNORECASE,
)
# Of these, what may as well be somebody's id, where nothing else is.
UNSURE_VISIT = re.compile(r"[mywvd][-_ ]?\d{1,3}|\d{4}|\d{8}", re.IGNORECASE)
GROUP = re.compile(
    r"((train|test|val)\w*[-_ ])?"
    r"(site|cent(er|re)|hospital|clinic|group|cohort|scanner|dataset|ds|batch|part|fold|set|study|project|release|arm)"
    r"[-_ ]?\w{0,6}|ad|cn|mci|hc|nc|hgg|lgg|(fe)?males?|(ab)?normals?|controls?|patients?|healthy|cases?|diseased?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class BidsName:
    """What a BIDS name tells; "" where it does not say."""

    subject: str
    session: str
    contrast: str


def entity_value(folder: str) -> str:
    """The value of the entity that a folder's name begins with: all of it up to the next entity."""
    return NEXT_ENTITY.split(folder, maxsplit=1)[0].split("-", 1)[1]


def bids_name(stem: str, folders: Collection[str] = ()) -> BidsName | None:
    """Subject, session and contrast of a BIDS name; None if neither file nor folder names a subject.

    A folder's own name comes first: it is what people rename. A label is everything up to the next entity
    (`sub-002_S_0001_ses-2020-01-01_T1w` is subject 002_S_0001). The contrast is the suffix, with the agent of `ce`.
    """
    above = next((name for name in folders if SUBJECT_FOLDER.match(name)), "")
    visit = next((name for name in folders if SESSION_FOLDER.match(name)), "")
    if not above and not SUBJECT_FOLDER.match(stem):
        return None
    subject = entity_value(above) if above else ""
    session = entity_value(visit) if visit else ""
    if above and stem.casefold().startswith(f"sub-{subject}".casefold()):
        stem = "sub-X" + stem[len(f"sub-{subject}") :]  # whatever hyphens and underscores it has
    chunks = NEXT_ENTITY.split(stem)
    ending = SUFFIX.search(chunks[-1])
    suffix = ending[1] if ending else ("" if len(chunks) > 1 or SUBJECT_FOLDER.match(stem) else stem)
    if ending:
        chunks[-1] = chunks[-1][: ending.start()]
    found = {key.casefold(): value for key, _, value in (chunk.partition("-") for chunk in chunks) if value}
    agent = f"-{found['ce']}" if "ce" in found else ""
    return BidsName(subject or found.get("sub", ""), session or found.get("ses", ""), suffix + agent)


@dataclass(frozen=True)
class PlainName:
    """The parts of a name that follows no standard.

    Attributes:
        identity: what is left without contrast and visit; "" if they are all of it.
        contrast: from the first to the last word of it; "" if there is none.
        session: the visit or its date; "" if there is none.
    """

    identity: str
    contrast: str
    session: str


def plain_name(name: str) -> PlainName:
    """Take a name apart: `IXI002-Guys-0828-T1` is a T1 of IXI002-Guys-0828, `P7_2020-01-01_flair` a visit of P7."""
    session = ""
    if YEAR.fullmatch(name):
        return PlainName("", "", name)
    if date := DATE.search(name):
        session, name = date[0], f"{name[: date.start()]}\0{name[date.end() :]}"
    pieces = SEPARATOR.split(name)
    words, gaps = pieces[::2], ["", *pieces[1::2]]
    places = [place for place, word in enumerate(words) if CONTRAST.fullmatch(word)]
    if places:
        while places[-1] + 1 < len(words) and DETAIL.fullmatch(words[places[-1] + 1]):
            places.append(places[-1] + 1)
        while places[0] > 0 and DETAIL.fullmatch(words[places[0] - 1]):
            places.insert(0, places[0] - 1)
    visits = [] if session else [p for p, w in enumerate(words) if VISIT.fullmatch(w) and p not in places]
    if visits and len(words) > len(visits) + len(places):
        session = words[visits[0]]
    elif visits and len(words) == len(visits):
        return PlainName("", "", name)
    else:
        visits = []
    kept = [
        ((gap, word), place)
        for place, (gap, word) in enumerate(zip(gaps, words, strict=True))
        if place not in places and place not in visits and word.strip("\0")
    ]
    before = [pair for pair, place in kept if places and place < places[0]]
    if sum(map(str.isdigit, "".join(word for _, word in before))) > 1:
        pairs = before  # what follows the contrast says how it was made
    else:
        pairs = [pair for pair, _ in kept]
    identity = "".join(gap + word for gap, word in pairs).strip("-_. +\0").replace("\0", "")
    contrast = "-".join(words[place] for place in places)
    return PlainName(identity, contrast, session)


def without_prefix(stem: str, folders: Collection[str]) -> str:
    """A file's name without that of the nearest folder that it begins with."""
    for name in reversed(tuple(folders)):
        if stem.casefold().startswith(name.casefold()):
            return stem[len(name) :].strip("_-. ")
    return stem


def shape_of(name: str) -> str:
    """A name with its numbers left open: what the ids of one register share."""
    return re.sub(r"\d+", "0", name.casefold())


def numbered(names: Collection[str], *, strictly: bool = False) -> bool:
    """Whether names look like ids of a register: the same letters, and numbers of two digits, strictly all of them."""
    shapes = set(map(shape_of, names))
    counts = [sum(map(str.isdigit, name)) for name in names]
    digits = bool(counts) and min(counts) >= (2 if strictly else 1) and max(counts) >= 2
    return digits and len(shapes) <= max(1, len(names) // 5) and not any(map(GROUP.fullmatch, names))
