"""Downloading from a stand-in of the Hugging Face Hub, by the real huggingface_hub: by part, resumable, in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest

from mdae.data.sources import list_source

COLUMNS = ["image_path", "modality", "image_quality_score", "anon_mask_path"]
ROWS = [
    ("ds000001/sub-01/anat/sub-01_T1w.nii.gz", "T1w", 1.0, "ds000001/sub-01/anat/sub-01_T1w__anon.nii.gz"),
    ("ds000001/sub-01/anat/sub-01_T2w.nii.gz", "T2w", 4.0, ""),
    ("ds000002/sub-01/anat/sub-01_T1w.nii.gz", "T1w", 2.0, ""),
    ("ds000002/sub-02/anat/sub-02_T1w.nii.gz", "T1w", 2.0, ""),
]


class Hub(ThreadingHTTPServer):
    """Serves files as the Hub resolves them; counts what is fetched, and refuses some on demand."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.fetched, self.refused = files, [], set()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        name = self.path.partition("/datasets/AnonRes/OpenMind/resolve/main/")[2]
        if name not in self.server.files or name in self.server.refused:
            self.send_response(403 if name in self.server.refused else 404)
            self.end_headers()
            return
        content = self.server.files[name]
        self.send_response(200)
        self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.server.fetched.append(name)
            self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {"openneuro_metadata.csv": pd.DataFrame(ROWS, columns=COLUMNS).to_csv(index=False).encode()}
    for path, _, _, mask in ROWS:
        files |= {f"OpenMind/{name}": name.encode() * 10 for name in (path, mask) if name}
    server = Hub(files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def mdae_download(hub: Hub, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder.parent),
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
    }
    command = [sys.executable, "-m", "mdae", "download", str(folder), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_part_then_the_rest_and_nothing_twice(hub, tmp_path):
    done = mdae_download(hub, tmp_path / "d", "--contrasts", "T1w", "--datasets", "ds000001")
    assert done.returncode == 0, done.stderr
    assert "1 scan of 1 subject (1 T1w) are there, 2 files of them new" in done.stdout
    assert sorted(hub.fetched) == [
        f"OpenMind/{ROWS[0][0]}",
        f"OpenMind/{ROWS[0][3]}",
        "openneuro_metadata.csv",
    ]
    done = mdae_download(hub, tmp_path / "d")
    assert "4 scans of 3 subjects (3 T1w, 1 T2w) are there, 3 files of them new" in done.stdout
    assert len(hub.fetched) == len(set(hub.fetched)) == 6, "nothing is fetched twice"
    listing = list_source(tmp_path / "d")
    assert (listing.kind, len(listing.entries), listing.left_out) == ("OpenMind", 4, [])
    assert [entry.anonymisation_mask is not None for entry in listing.entries] == [True, False, False, False]


def test_a_dry_run_fetches_the_table_alone_and_quality_counts(hub, tmp_path):
    done = mdae_download(hub, tmp_path / "d", "--dry-run", "--max-quality-score", "2", "--subjects", "2")
    assert "2 scans of 2 subjects (2 T1w) would be taken" in done.stdout, done.stderr
    assert hub.fetched == ["openneuro_metadata.csv"]


def test_files_that_fail_are_named_and_the_next_run_takes_them(hub, tmp_path):
    hub.refused = {f"OpenMind/{ROWS[2][0]}"}
    done = mdae_download(hub, tmp_path / "d")
    assert done.returncode == 2
    assert "1 of 5 files could not be fetched" in done.stderr and "the same command goes on" in done.stderr
    assert "Traceback" not in done.stderr
    hub.refused = set()
    assert "1 files of them new" in mdae_download(hub, tmp_path / "d").stdout


def test_a_hub_that_refuses_all_is_soon_given_up(hub, tmp_path):
    rows = [(f"ds3/sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz", "T1w", 1.0, "") for i in range(60)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    hub.files["openneuro_metadata.csv"] = table.to_csv(index=False).encode()
    done = mdae_download(hub, tmp_path / "d", "--workers", "1")
    assert done.returncode == 2 and "20 of 60 files could not be fetched" in done.stderr


def test_no_hub_is_one_line(hub, tmp_path):
    done = mdae_download(hub, tmp_path / "d", "--repo", "nobody/nothing")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "the table of nobody/nothing cannot be fetched" in done.stderr


def test_more_subjects_keep_those_of_fewer(hub, tmp_path):
    kept: list[set[str]] = []
    for number in (1, 2, 3):
        mdae_download(hub, tmp_path / str(number), "--subjects", str(number))
        kept.append({entry.subject for entry in list_source(tmp_path / str(number)).entries})
    assert kept[0] < kept[1] < kept[2]
