"""Large datasets whose filters and chunks stay: tasks copy their payloads, and nothing else of them changes."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.repacking import layouts
from dask_chunkio.storage.hdf5.h5py_compat import keeps_partial_chunks_unfiltered
from tests.support.repack.files import FILES, is_readable, require_alike

needs_tools = pytest.mark.skipif(shutil.which("h5dump") is None, reason="needs hdf5-tools")
NUMBERS = np.random.default_rng(3).integers(0, 9, (300, 50)).astype("<i4")


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    # The processes of isolated repacks have another module `layouts`: these repacks are done in this process.
    monkeypatch.setattr(layouts, "LEAST_COPIED", 1000)


def payloads(file: h5py.File) -> dict[tuple[int, ...], tuple[int, bytes]]:
    """Return mask and bytes of each stored chunk of the dataset x."""
    dataset = file["x"]
    # HDF5 lists wrong coordinates for some extensible arrays, so that each chunk is asked for.
    origins = [tuple(part.start for part in cell) for cell in dataset.iter_chunks()]
    found = {origin: dataset.id.read_direct_chunk(origin) for origin in origins if _is_stored(dataset, origin)}
    assert len(found) == dataset.id.get_num_chunks()
    return found


def _is_stored(dataset: h5py.Dataset, origin: tuple[int, ...]) -> bool:
    try:
        dataset.id.read_direct_chunk(origin)
    except (OSError, RuntimeError):
        return False
    return True


def repacked(old: Path, **keywords: Any) -> tuple[Path, set[str]]:
    """Repack a file; return the copy, and the datasets that tasks have written."""
    new = old.with_name("new.h5")
    seen: list[Any] = []
    result = dcio.repack(
        old, new, verify=True, callback=seen.append, scheduler="synchronous", isolated=False, **keywords
    )
    assert not result.datasets, "nothing has changed"
    return new, {one.dataset for one in seen if isinstance(one, dcio.BufferCommitted)}


def gzipped(file: h5py.File, **keywords: Any) -> h5py.Dataset:
    options = {"chunks": (40, 50), "compression": "gzip", "compression_opts": 7, "shuffle": True, **keywords}
    return file.create_dataset("x", data=NUMBERS, **options)


def _masks(file: h5py.File) -> None:
    gzipped(file).id.write_direct_chunk((40, 0), NUMBERS[40:80].tobytes(), 0b11)


def _named_type(file: h5py.File) -> None:
    file["kind"] = np.dtype("<i4")
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((40, 50))
    plist.set_deflate(9)
    made = h5py.h5d.create(file.id, b"x", file["kind"].id, h5py.h5s.create_simple((300, 50)), plist)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, NUMBERS)


def _rich(file: h5py.File) -> None:
    made = gzipped(file, fillvalue=-7, maxshape=(None, 50), track_times=True, track_order=True, fletcher32=True)
    made.attrs["self"], made.attrs["text"] = made.ref, "ä"
    made.make_scale("scale")


MAKERS: dict[str, tuple[Any, Callable[[h5py.File], object]]] = {
    "gzip": (None, gzipped),
    "masks": (None, _masks),
    "named type": (None, _named_type),
    "attributes and limits": ("latest", _rich),
    "extensible array": ("v110", lambda file: gzipped(file, maxshape=(300, None))),
    "version-2 B-tree": ("latest", lambda file: gzipped(file, maxshape=(None, None))),
    "fixed array": ("latest", gzipped),
    "single chunk": ("latest", lambda file: gzipped(file, chunks=(300, 50))),
    "no filters": (None, lambda file: file.create_dataset("x", data=NUMBERS, chunks=(40, 50))),
    "fill time": (None, lambda file: gzipped(file, fillvalue=3, fill_time="never")),
    "bool and big-endian": (None, lambda file: file.create_dataset("x", data=NUMBERS.astype(">f8"), chunks=(7, 9))),
    "fields": (
        None,
        lambda file: file.create_dataset(
            "x", data=np.arange(5000 * 17, dtype="u1").view("<i4,S5,(2,)<f4"), chunks=(600,), compression=4
        ),
    ),
}


@needs_tools
@pytest.mark.parametrize("name", MAKERS)
def test_payloads_and_properties_stay(name: str, tmp_path: Path) -> None:
    libver, make = MAKERS[name]
    old = tmp_path / "old.h5"
    with h5py.File(old, "w", libver=libver) as file:
        make(file)
    new, filled = repacked(old)
    assert filled == {"/x"}
    with h5py.File(old) as one, h5py.File(new) as other:
        assert payloads(one) == payloads(other)
        assert one["x"].maxshape == other["x"].maxshape
        assert one["x"].fillvalue == other["x"].fillvalue or name == "fields"
        plists = [file["x"].id.get_create_plist() for file in (one, other)]
        assert len({plist.get_fill_time() for plist in plists}) == 1
        assert len({plist.get_alloc_time() for plist in plists}) == 1
        assert one["x"].id.get_type().committed() == other["x"].id.get_type().committed()
    if libver is None:
        require_alike(new, old)


def _sparse(file: h5py.File) -> None:
    made = file.create_dataset("x", (3000, 50), "<i4", chunks=(40, 50), compression="gzip", fillvalue=5)
    made[:2000] = 1


def _early(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((40, 50))
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    made = h5py.h5d.create(file.id, b"x", h5py.h5t.STD_I32LE, h5py.h5s.create_simple((300, 50)), plist)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, NUMBERS)


def _partial(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((40, 50))
    plist.set_deflate(3)
    library = ctypes.PyDLL(h5py.defs.__file__)
    assert library.H5Pset_chunk_opts(ctypes.c_int64(plist.id), ctypes.c_uint(2)) >= 0
    made = h5py.h5d.create(file.id, b"x", h5py.h5t.STD_I32LE, h5py.h5s.create_simple((290, 50)), plist)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, NUMBERS[:290])
    assert keeps_partial_chunks_unfiltered(made.get_create_plist())


def _unknown_filter(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((300, 50))
    plist.set_filter(400, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    made = h5py.h5d.create(file.id, b"x", h5py.h5t.STD_I32LE, h5py.h5s.create_simple((300, 50)), plist)
    made.write_direct_chunk((0, 0), NUMBERS.tobytes())


BY_HDF5: dict[str, tuple[Any, Callable[[h5py.File], object]]] = {
    "sparse": (None, _sparse),
    "allocated early": (None, _early),
    "partial chunks without filters": ("latest", _partial),
    "an unknown filter": (None, _unknown_filter),
    "contiguous": (None, lambda file: file.create_dataset("x", data=NUMBERS)),
}


@pytest.mark.parametrize("name", BY_HDF5)
def test_what_tasks_cannot_keep_is_copied_by_hdf5(name: str, tmp_path: Path) -> None:
    libver, make = BY_HDF5[name]
    old = tmp_path / "old.h5"
    with h5py.File(old, "w", libver=libver) as file:
        make(file)
    new = tmp_path / "new.h5"
    seen: list[Any] = []
    dcio.repack(old, new, verify=name != "an unknown filter", callback=seen.append, isolated=False)
    assert not seen
    with h5py.File(old) as one, h5py.File(new) as other:
        plists = [file["x"].id.get_create_plist() for file in (one, other)]
        assert len({plist.get_alloc_time() for plist in plists}) == 1
        assert len({keeps_partial_chunks_unfiltered(plist) for plist in plists}) == 1
        if one["x"].chunks:
            assert payloads(one) == payloads(other)


@pytest.mark.heavy
@needs_tools
@pytest.mark.parametrize("name", FILES)
def test_files_of_other_libraries_are_alike(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tasks can copy, they copy."""
    monkeypatch.setattr(layouts, "LEAST_COPIED", 1)
    modules, make = FILES[name]
    for module in modules:
        pytest.importorskip(module)
    old, new = tmp_path / ("old.nwb" if name == "nwb" else "old.h5"), tmp_path / "new.h5"
    make(old)
    dcio.repack(old, new, verify=True, isolated=False)
    if is_readable(old):
        require_alike(new, old)


def test_what_was_copied_is_not_copied_again(tmp_path: Path) -> None:
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    with h5py.File(old, "w") as file:
        gzipped(file, chunks=(3, 50))
    seen: list[dcio.BufferCommitted] = []

    def stop(event: object) -> None:
        if isinstance(event, dcio.BufferCommitted):
            seen.append(event)
            raise KeyboardInterrupt

    with dask_settings(), pytest.raises(KeyboardInterrupt):
        dcio.repack(old, new, callback=stop, scheduler="synchronous", isolated=False)
    assert not new.exists()
    state = dcio.status(new)
    assert state is not None
    assert state.datasets[0].committed > 0
    with dask_settings():
        dcio.repack(old, new, resume=True, verify=True, isolated=False)
    with h5py.File(old) as one, h5py.File(new) as other:
        assert payloads(one) == payloads(other)


def dask_settings() -> Any:
    import dask

    return dask.config.set({"chunkio.buffer-size": "4 KiB"})
