"""Which public cohorts other people's encoders were pre-trained on: a score on one of them is not on unseen people.

Their weights carry no list of scans, so cohorts are compared instead of scans. Only what a publication or its lists of
data say is noted; of an encoder that is not here nobody knows.
"""

from __future__ import annotations

# By kind of encoder and layout of the data set.
SEEN_BY: dict[str, dict[str, str]] = {
    "brainmvp": {
        "ucsf-pdgm": "its pre-training lists hold 495 cases of UCSF-PDGM",
        "brats18": "its pre-training lists hold about 1,250 cases of BraTS 2021, which took over those of BraTS 2018",
        "brats23": "its pre-training lists hold over 1,000 meningiomas of BraTS 2023, and BraTS 2021's gliomas",
        "rsna-miccai": "its pre-training lists hold about 1,250 cases of BraTS 2021, whose cohort RSNA-MICCAI is",
    },
}
# What scans have to have undergone for weights to be of use, and which is not done here.
UNDERGONE = {
    "brainiac": "BrainIAC knows scans after N4, rigid registration and skull stripping; none of these is done here",
}


def known_exposure(encoder: str, layout: str) -> str:
    """What an encoder, KIND:PATH, was pre-trained on of a data set, in words; "" if nothing is known."""
    return SEEN_BY.get(encoder.partition(":")[0], {}).get(layout, "")
