"""Judge what a folder holds after a write that was cut off: by h5py, h5dump and pyfive, without the package."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyfive

import dask_chunkio as dcio
from tests.support.files import Entry, content, hidden
from tests.support.notes import lines
from tests.support.promises import require
from tests.support.replay.replay_cases import FILE, READS, TOKENS, Case

# Documented: kept with datasets that a call with a token has written.
TOKEN_ATTRIBUTE = "dask_chunkio_tokens"
_FILTERS = (1, 2, 3)  # deflate, shuffle, fletcher32


def _content(path: Path) -> dict[str, Entry]:
    return content(path, _values, (TOKEN_ATTRIBUTE,))


def _values(dataset: Any) -> tuple[Any, ...]:
    made = dataset.id.get_create_plist()
    filters = [made.get_filter(number)[::2] for number in range(made.get_nfilters())]
    data = dataset[...]
    return data.dtype.str, dataset.shape, dataset.maxshape, dataset.chunks, filters, data.tolist()


class Judge:
    """Knows what a write finds and what it has to leave.

    Parameters
    ----------
    case : Case
        The write.
    folder : path
        For files that plain h5py makes.
    once_more : bool
        Whether to make the same call again when it has ended well.
    """

    def __init__(self, case: Case, folder: str | Path, once_more: bool = True) -> None:
        self.case, self.once_more = case, once_more
        self.old: dict[str, Entry] | None = None
        path = Path(folder, "by-h5py.h5")
        if case.begin_with is not None:
            case.begin_with(path)
            self.old = _content(path)
        case.by_h5py(path)
        self.new = _content(path)
        # Both may be older than the format.
        self.is_dumped = shutil.which("h5dump") is not None and _dumped(path).returncode == 0
        self.by_pyfive = {name for name, held in self.new.items() if _is_read_by_pyfive(path, name, held[0])}
        path.unlink()

    # Before anything is resumed

    def look(self, root: str | Path) -> None:
        """Read the file as any program would; raises unless it holds what is documented."""
        path = Path(root, FILE)
        if not path.exists():
            require(self.old is None, "the file is gone")
            return
        found = _content(path)
        if self.old is None or not self.case.placed:
            require(found in (self.old, self.new), f"neither old nor new: {self._odd(found)}")
            return
        made = set(self.new) - set(self.old)
        require(made <= set(found) or not made & set(found), f"only some of {sorted(made)} have their names")
        require(set(found) <= set(self.new), f"{sorted(set(found) - set(self.new))} came up")
        for name, held in found.items():
            if held not in (self.old.get(name), self.new[name]):
                require(name in self.case.placed and held[1] == self.old[name][1], f"{name} is neither old nor new")
                _require_mixed(name, held[0], self.old[name][0], self.new[name][0])

    def _odd(self, found: Mapping[str, Entry]) -> list[str] | str:
        old = self.old or {}
        names = sorted({*found, *old, *self.new})
        return [name for name in names if found.get(name) not in (old.get(name), self.new.get(name))] or "a mixture"

    def _is_whole(self, path: Path) -> bool:
        try:
            return _content(path) == self.new
        except (OSError, RuntimeError, KeyError):  # a transaction was cut off
            return False

    # Bringing it into order

    def judge(self, root: str | Path, how: str) -> None:
        """Resume what a folder holds, by the same call, and see that every promise was kept.

        Parameters
        ----------
        root : path
            The folder.
        how : str
            ``"resume"``; or ``"recover"`` or ``"discard"`` before it.
        """
        path, side = Path(root, FILE), Path(root, FILE + ".writing")
        # An empty folder is no write.
        was_side = side.exists() and any(side.iterdir())
        if how == "recover" and was_side:
            try:
                dcio.recover(path)
            except dcio.errors.TargetError as error:
                require(
                    "before it had made anything" in str(error) or "has no manifest" in str(error), f"recover: {error}"
                )
            self.look(root)
        if how == "discard":
            dcio.discard(path)
            require(not side.exists(), "discard leaves the folder")
            self.look(root)
            require(not path.exists() or not hidden(path), "discard leaves what is hidden")
            was_side = False
        was_side = was_side and not self._is_whole(path)
        before = lines(Path(root, READS))
        self.case.write(root, scheduler="synchronous", resume=True)
        self._require_whole(root)
        if was_side and how == "resume" and self.case.scheduler == "synchronous":
            again = set(lines(Path(root, READS))[len(before) :]) & set(before[:-1])
            require(not again, f"read again, and not in flight: {sorted(again)}")
        if self.once_more and (not self.case.appends or TOKENS):
            self._write_once_more(root)

    def _write_once_more(self, root: str | Path) -> None:
        path, read = Path(root, FILE), lines(Path(root, READS))
        held = path.read_bytes()
        self.case.write(root, scheduler="synchronous", resume=True)
        is_same = path.read_bytes() == held and set(os.listdir(root)) <= {FILE, READS}
        if self.case.is_known:
            require(is_same, "the same call once more changes the file, or leaves others")
            require(lines(Path(root, READS)) == read, "the same call once more reads its source")
        if not is_same:
            self._require_whole(root)

    def _require_whole(self, root: str | Path) -> None:
        path = Path(root, FILE)
        found = _content(path)
        for name in sorted({*found, *self.new}):
            require(found.get(name) == self.new.get(name), f"{name} is not what h5py would have made")
        require(not hidden(path), "something hidden is left")
        require(set(os.listdir(root)) <= {FILE, READS}, f"{os.listdir(root)} is left")
        if self.is_dumped:
            done = _dumped(path)
            require(done.returncode == 0 and not done.stderr, f"h5dump: {done.returncode} {done.stderr[-300:]!r}")
        for name in sorted(self.by_pyfive):
            require(_is_read_by_pyfive(path, name, self.new[name][0]), f"pyfive reads other values of {name}")


def _dumped(path: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["h5dump", path], capture_output=True, check=False)


def _require_mixed(name: str, held: Any, old: Any, new: Any) -> None:
    """Each element is the old one or the new one, or, in what was appended, the fill value."""
    require(held[0] == old[0] and held[2:5] == old[2:5], f"{name} is not as it was made")
    require(held[1] in (old[1], new[1]), f"{name} has the shape {held[1]}")
    found, before, after = (np.array(one[5], old[0]) for one in (held, old, new))
    there = tuple(map(slice, before.shape))
    was = np.zeros(found.shape, found.dtype)
    was[there] = before
    after = after[tuple(map(slice, found.shape))]
    require(((found == was) | (found == after)).all(), f"{name} holds values that are neither old nor new")


def _is_read_by_pyfive(path: Path, name: str, held: Any) -> bool:
    if held == "group" or any(code not in _FILTERS for code, _ in held[4]):
        return False
    try:
        with pyfive.File(str(path)) as file:
            return np.array_equal(file[name][...], np.array(held[5], held[0]))
    except Exception:
        return False
