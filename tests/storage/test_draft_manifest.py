import json
from pathlib import Path
from typing import Any

import pytest

from dask_chunkio.errors import IntegrityError, UnfinishedWriteError
from dask_chunkio.storage.journal.draft_manifest import (
    DraftManifest,
    DraftPurpose,
    Original,
    read_draft,
    read_purpose,
)

ORIGINAL = Original(1, 2, 3, 4)
PURPOSE = DraftPurpose("repack", "/a.h5", 1.5, ("repack", "/a.h5", "/b.h5"))
WHOLE = DraftManifest("me", "w", "filling", ORIGINAL, (("/x",), ("/y", "/z")), 3, "/a.h5", PURPOSE)


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "draft.json")
    assert read_draft(path) is None
    for one in (WHOLE, DraftManifest("me", "x")):
        one.save(path)
        assert read_draft(path) == one
    PURPOSE.save(path)
    assert read_purpose(path) == PURPOSE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "r"}, "no valid mode or state"),
        ({"state": "done"}, "no valid mode or state"),
        ({"holder": 7}, "does not say who holds"),
        ({"fills": "/x"}, "does not say which datasets"),
        ({"fills": [["/x", 7]]}, "does not say which datasets"),
        ({"parts": -1}, "names -1 parts"),
        ({"parts": True}, "names True parts"),
        ({"made_from": ["/a"]}, "does not say of what"),
        ({"original": {"device": 1, "inode": 2, "nbytes": "3", "modified_ns": 4}}, "does not describe the original"),
        ({"original": {}}, ""),
        ({"purpose": {"kind": "print", "source": "/a", "begun": 1.5, "command": []}}, "does not say what"),
        ({"purpose": {"kind": "repack", "source": "/a", "begun": 1e12, "command": []}}, "does not say what"),
        ({"purpose": {"kind": "repack", "source": "/a", "begun": 1.5, "command": [7]}}, "does not say what"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "draft.json"
    WHOLE.save(str(path))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match=rf"draft\.json is damaged.*{words}"):
        read_draft(str(path))


@pytest.mark.parametrize("change", [{"version": 2}, {"format": "another"}])
def test_a_manifest_of_another_version_is_not_called_damaged(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "draft.json"
    WHOLE.save(str(path))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UnfinishedWriteError, match="go on with the dask_chunkio that began the draft"):
        read_draft(str(path))


def test_how_to_go_on() -> None:
    assert PURPOSE.words_to_go_on.startswith("'dask-chunkio repack /a.h5 /b.h5 --resume', or the same call")
    without = DraftPurpose("conversion", "/a.zarr", 1.5)
    assert (
        without.words_to_go_on
        == "the same call of dask_chunkio.convert and resume=True, or the same command and --resume"
    )
    assert str(without) == "conversion of /a.zarr"
