"""The store: prepared volumes in float16, chunked and compressed so that a crop reads only the blocks it touches.

store.json            the preprocessing contract
volumes/<scan>.b2nd   one volume with its record inside: a volume is there whole or not at all
manifest.jsonl        what is in the volumes in one file; it only saves opening each of them
set_aside.csv         scans that `prepare` could not take, with reasons
contact_sheet/        pictures of some, if wanted
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdae.data.catalogue import ScanEntry
from mdae.data.intensity import Z_RANGE
from mdae.data.preprocess import UNKNOWN, PreparedRecord, PreparedScan, Preprocessing
from mdae.errors import ConfigError, DataError, ScanError
from mdae.extras import require
from mdae.files import atomic_write
from mdae.text import printable
from mdae.types import Shape3

if TYPE_CHECKING:
    import blosc2

FORMAT = 2
CHUNK = 64  # voxels a side: half a megabyte, the unit of reading
BLOCK = 32  # voxels a side: 64 kilobytes, the unit of decompression, within a core's cache
META = "mdae"
SHARED = ("subject", "session", "contrast", "origin", "modality")  # words that many scans have in common


@dataclass(frozen=True, slots=True)
class StoredScan:
    """A volume of a store: whose it is and what reading it takes. Its whole record is in the volume: `Store.record`.

    A hundred thousand of them are in memory while a run lasts, hence they are small.

    Attributes:
        size, modified_ns: of the source file, to see whether it has changed since.
        source, content, background, unknown: of the record.
        modality: in DICOM's words; "" where nobody knows.
        notes: what a person should be told of it.
        origin: what `prepare` was given when it was taken; "" in stores of before.
        together: the first name among the scans that it shares its grid with; "" for a grid of its own.
        link, link_unknown: a volume that nnssl has preprocessed, and its anonymisation mask, if it is read in place.
    """

    scan_id: str
    subject: str
    session: str
    contrast: str
    shape: Shape3
    size: int
    modified_ns: int
    source: str
    content: str
    background: float
    unknown: float
    link: str = ""
    link_unknown: str = ""
    origin: str = ""
    modality: str = ""
    notes: tuple[str, ...] = ()
    together: str = ""

    @classmethod
    def of(
        cls, entry: ScanEntry, record: PreparedRecord, *, link: str = "", link_unknown: str = ""
    ) -> StoredScan:
        """A prepared scan of a source."""
        size, modified_ns = entry.stamp()
        return cls(
            scan_id=entry.scan_id,
            subject=entry.subject,
            session=entry.session,
            contrast=entry.contrast,
            shape=record.shape,
            size=size,
            modified_ns=modified_ns,
            source=record.source,
            content=record.content,
            background=record.background,
            unknown=record.unknown,
            link=link,
            link_unknown=link_unknown,
            origin=entry.origin,
            modality=record.modality,
            notes=record.notes,
            together=entry.together[0].scan_id if entry.together else "",
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StoredScan:
        """The inverse of `dataclasses.asdict`."""
        x, y, z = values["shape"]
        shared = {n: sys.intern(values.get(n, "")) for n in SHARED}
        return cls(**{**values, **shared, "shape": (x, y, z), "notes": tuple(values.get("notes", ()))})


class Store:
    """A folder of prepared volumes; cheap to open and to send to loader processes.

    Attributes:
        path: the folder.
        contract: how every volume in it was prepared.
        scans: the volumes, sorted by `scan_id`.
        unreadable: names of files among the volumes that are none, damaged say.
        whole_files: read a volume's whole file at once, instead of the blocks that are wanted.
    """

    whole_files = False

    def __init__(self, path: Path, contract: Preprocessing, scans: list[StoredScan]) -> None:
        require("blosc2", "stores are kept with")
        self.path, self.contract, self.scans = path, contract, scans
        self.unreadable: list[str] = []

    @classmethod
    def create(cls, path: Path, contract: Preprocessing) -> Store:
        """Open the store there, or make it.

        Raises:
            DataError: the folder holds something else, or a store of another contract.
        """
        path = Path(path)
        if (path / "store.json").exists():
            store = cls.open(path, empty_ok=True)
            if store.contract != contract:
                raise DataError(
                    f"the store there was prepared as {store.contract}, not as {contract}",
                    where=path,
                    mend="repeat its options or give another folder",
                )
            return store
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise DataError("not empty and not a store", where=path, mend="give a new folder")
        with atomic_write(path / "store.json") as temporary:
            temporary.write_text(
                json.dumps({"format": FORMAT, "preprocessing": contract.to_dict()}, indent=2) + "\n"
            )
        return cls(path, contract, [])

    @classmethod
    def open(cls, path: Path, *, empty_ok: bool = False) -> Store:
        """Open a store.

        Raises:
            DataError: no store there, one of another format, or an empty one.
        """
        path = Path(path)
        try:
            about = json.loads((path / "store.json").read_text())
            contract = Preprocessing.from_dict(about["preprocessing"])
        except FileNotFoundError as error:
            raise DataError(
                "no store there", where=path, mend="make one: mdae prepare SOURCE STORE"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise DataError(
                f"not a store's description ({error})",
                where=path / "store.json",
                mend="prepare again elsewhere",
            ) from error
        if about.get("format") != FORMAT:
            raise DataError(
                f"a store of format {about.get('format')}, not {FORMAT}",
                where=path,
                mend="prepare again elsewhere",
            )
        store = cls(path, contract, [])
        store.refresh()
        if not store.scans and not empty_ok:
            raise DataError("the store holds no volume", where=path, mend=f"see {path / 'set_aside.csv'}")
        return store

    def refresh(self, fresh: Iterable[StoredScan] = ()) -> None:
        """List the volumes: `fresh` and the manifest where they know them, else the volumes themselves."""
        folder = self.path / "volumes"
        there = set()
        if folder.is_dir():
            with os.scandir(folder) as files:  # a hundred thousand names in well under a second
                there = {file.name[:-5] for file in files if _is_volume(file.name)}
        known = {scan.scan_id: scan for scan in (*_read_manifest(self.path / "manifest.jsonl"), *fresh)}
        scans = {name: known.get(name) or self._read_description(name) for name in sorted(there)}
        self.scans = [scan for scan in scans.values() if scan is not None]
        self.unreadable = [name for name, scan in scans.items() if scan is None]

    def write_manifest(self, fresh: Iterable[StoredScan] = ()) -> None:
        """Write the manifest after volumes were added; `fresh` replaces what was known of a scan."""
        self.refresh(fresh)
        self._save_manifest(self.scans)

    def forget(self, scan_ids: Collection[str]) -> None:
        """Take scans out of the manifest, because their volumes are about to be replaced.

        Whoever opens the store from then on, after a kill too, reads what they are from the volumes themselves.
        """
        self._save_manifest(scan for scan in self.scans if scan.scan_id not in scan_ids)

    def _save_manifest(self, scans: Iterable[StoredScan]) -> None:
        with atomic_write(self.path / "manifest.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(asdict(scan)) + "\n" for scan in scans))

    def volume_path(self, scan_id: str) -> Path:
        """Where a volume lies."""
        return self.path / "volumes" / f"{scan_id}.b2nd"

    def write(self, entry: ScanEntry, prepared: PreparedScan) -> StoredScan:
        """Add a volume with its description, in one step that either happens or does not."""
        scan = StoredScan.of(entry, prepared.record)
        half = prepared.data.astype(np.float16)  # before it is laid out anew: half as much to move
        return self._write(scan, prepared.record, np.ascontiguousarray(half))

    def link(self, entry: ScanEntry) -> StoredScan:
        """Add a volume that nnssl has preprocessed without copying it: (1, z, y, x) float32 at 1 mm, z-scored.

        Raises:
            ScanError: not such a volume.
        """
        volume = open_linked(entry.path)
        shape = tuple(volume.shape[:0:-1])
        corners = [volume[(0, *(-end for end in ends))] for ends in np.ndindex(2, 2, 2)]
        hidden = entry.anonymisation_mask
        record = PreparedRecord(
            source=printable(entry.path),
            content=hashlib.sha256(f"{entry.path}\0{entry.stamp()[0]}".encode()).hexdigest()[:20],
            source_shape=shape,
            source_affine=np.eye(4).tolist(),
            crop_start=(0, 0, 0),
            crop_shape=shape,
            shape=shape,
            affine=np.eye(4).tolist(),
            mean=0.0,
            std=1.0,
            foreground=1.0,
            background=float(np.clip(np.median(corners), *Z_RANGE)),
            unknown=0.0 if hidden is None else float((open_linked(hidden)[:] > 0).mean()),
        )
        masked = "" if hidden is None else str(hidden)
        scan = StoredScan.of(entry, record, link=str(entry.path), link_unknown=masked)
        return self._write(scan, record, np.zeros((1, 1, 1), dtype=np.float16))  # in name, for what it tells

    def _write(self, scan: StoredScan, record: PreparedRecord, voxels: np.ndarray) -> StoredScan:
        import blosc2  # here: an extra

        array = blosc2.asarray(
            voxels,
            chunks=tuple(min(CHUNK, side) for side in voxels.shape),
            blocks=tuple(min(BLOCK, side) for side in voxels.shape),
            cparams=blosc2.CParams(
                codec=blosc2.Codec.LZ4HC, clevel=1, filters=[blosc2.Filter.SHUFFLE], nthreads=1
            ),
        )
        array.schunk.vlmeta[META] = {"scan": asdict(scan), "record": record.to_dict()}
        with atomic_write(self.volume_path(scan.scan_id)) as temporary:
            temporary.write_bytes(array.to_cframe())
        return scan

    def describe(self, scan: StoredScan) -> None:
        """Write anew whose a volume is, its voxels as they are, in one step that either happens or does not."""
        self._write(scan, self.record(scan), np.asarray(self._open_volume(scan.scan_id)[:]))

    def _open_volume(self, scan_id: str) -> blosc2.NDArray:
        path = self.volume_path(scan_id)
        try:
            return _open(path, whole=self.whole_files)
        except Exception as error:  # blosc2 raises several kinds for damaged files
            raise DataError(
                f"a volume that cannot be read ({error})", where=path, mend="delete it and prepare again"
            ) from error

    def _read_inside(self, scan: StoredScan, source: tuple[slice, ...]) -> np.ndarray:
        """A crop that lies within a volume."""
        if not scan.link:
            return np.asarray(self._open_volume(scan.scan_id)[source])
        there = (0, *source[::-1])
        volume = open_linked(scan.link, whole=self.whole_files)
        crop: np.ndarray = np.clip(np.asarray(volume[there]).T, *Z_RANGE).astype(np.float16)
        if scan.link_unknown:
            hidden = open_linked(scan.link_unknown, whole=self.whole_files)
            crop[np.asarray(hidden[there]).T > 0] = np.nan
        return crop

    def _read_description(self, scan_id: str) -> StoredScan | None:
        """A volume's description from the volume itself; None if it is not one of ours."""
        try:
            volume = self._open_volume(scan_id)  # kept: its metadata does not outlive it
            return StoredScan.from_dict(volume.schunk.vlmeta[META]["scan"])
        except (KeyError, TypeError, ValueError, DataError):
            return None

    def record(self, scan: StoredScan) -> PreparedRecord:
        """How a scan was prepared, enough to map any voxel back to its source.

        Raises:
            DataError: a volume that cannot be read, or is not one of ours.
        """
        volume = self._open_volume(scan.scan_id)
        try:
            return PreparedRecord.from_dict(volume.schunk.vlmeta[META]["record"])
        except (KeyError, TypeError, ValueError) as error:
            where = self.volume_path(scan.scan_id)
            raise DataError(
                "a volume without its record", where=where, mend="delete it and prepare again"
            ) from error

    def read(self, scan: StoredScan) -> np.ndarray:
        """A whole volume (D, H, W), float16; `UNKNOWN` where it is unknown, as in training."""
        volume = self.read_crop(scan, (0, 0, 0), scan.shape)
        if scan.unknown:
            volume[np.isnan(volume)] = UNKNOWN
        return volume

    def read_crop(self, scan: StoredScan, start: Shape3, size: Shape3) -> np.ndarray:
        """A crop (D, H, W) of a volume, float16, NaN where it is unknown; only the touched blocks are decompressed.

        Args:
            scan: a volume of this store.
            start: the crop's corner; it may be negative. What lies outside is filled with the background.
            size: the crop's sides.
        """
        low = [max(0, first) for first in start]
        high = [min(side, first + edge) for side, first, edge in zip(scan.shape, start, size, strict=True)]
        source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        if tuple(b - a for a, b in zip(low, high, strict=True)) == tuple(size):
            return self._read_inside(scan, source)
        crop = np.full(size, scan.background, dtype=np.float16)
        if all(a < b for a, b in zip(low, high, strict=True)):
            target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            crop[target] = self._read_inside(scan, source)
        return crop


def _open(path: str | Path, *, whole: bool) -> blosc2.NDArray:
    """A file of blosc2's, mapped into memory or read whole."""
    import blosc2  # here: an extra

    one = blosc2.DParams(nthreads=1)
    if not whole:
        return blosc2.open(str(path), mmap_mode="r", dparams=one)
    volume = blosc2.ndarray_from_cframe(Path(path).read_bytes())
    volume.schunk.dparams = one
    return volume


def open_linked(path: str | Path, *, whole: bool = False) -> blosc2.NDArray:
    """A volume or mask of nnssl's, (1, z, y, x).

    Raises:
        ScanError: missing, damaged, or of another shape.
    """
    try:
        volume = _open(path, whole=whole)
        shape = volume.shape
    except Exception as error:  # blosc2 raises several kinds for damaged files
        raise ScanError(
            f"not a volume of nnssl's ({error})", where=path, mend="preprocess it again"
        ) from error
    if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
        raise ScanError(
            f"a volume of shape {shape}, not (1, z, y, x)", where=path, mend="preprocess it again"
        )
    return volume


def _is_volume(name: str) -> bool:
    return name.endswith(".b2nd") and not name.startswith(".")


def _read_manifest(path: Path) -> list[StoredScan]:
    """The manifest's scans; an unreadable one counts as empty, since the volumes hold the same."""
    try:
        return [StoredScan.from_dict(json.loads(line)) for line in path.read_text().splitlines()]
    except (OSError, ValueError, KeyError, TypeError):
        return []
