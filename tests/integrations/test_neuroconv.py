"""NeuroConv's own functions with our class in its table of backends: the same files, its own configuration."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pynwb
import pytest
from pynwb import NWBFile, TimeSeries

from tests.integrations.test_pynwb import session
from tests.support.files import content
from tests.support.hdmf_iterators import FromArrayOfHdmf

# Its dependencies do not go with zarr 3, which other tests need: `nox -s neuroconv`.
helpers = pytest.importorskip("neuroconv.tools.nwb_helpers", reason="neuroconv is installed by nox -s neuroconv only")

from dask_chunkio.integrations import neuroconv  # noqa: E402
from dask_chunkio.integrations.neuroconv import parallel_backend  # noqa: E402
from dask_chunkio.integrations.pynwb import NWBHDF5IO  # noqa: E402

VOLTAGES = np.random.default_rng(0).integers(-500, 500, (3000, 16), "i2")


def recording() -> NWBFile:
    file = session()
    shapes = {"chunk_shape": (500, 16), "buffer_shape": (1000, 16)}
    file.add_acquisition(TimeSeries(name="x", data=FromArrayOfHdmf(VOLTAGES, **shapes), unit="V", rate=1.0))
    return file


def properties(dataset: h5py.Dataset) -> Any:
    names = ("shape", "dtype", "maxshape", "chunks", "compression", "compression_opts", "shuffle")
    data = None if dataset.dtype.hasobject else dataset[...].tobytes()
    return data, *(getattr(dataset, name) for name in names)


def found(path: Path) -> dict[str, Any]:
    return content(path, properties, without=(".specloc", "object_id"))


def test_a_file_is_configured_written_and_repacked(tmp_path: Path, filled: list[tuple[str, ...]]) -> None:
    theirs, ours = tmp_path / "theirs.nwb", tmp_path / "ours.nwb"
    helpers.configure_and_write_nwbfile(recording(), nwbfile_path=theirs, backend="hdf5")
    assert not filled
    with parallel_backend(parallel_threshold=0):
        helpers.configure_and_write_nwbfile(recording(), nwbfile_path=ours, backend="hdf5")
        assert ("/acquisition/x/data",) in filled
        assert found(ours) == found(theirs)
        filled.clear()
        helpers.repack_nwbfile(nwbfile_path=ours, export_nwbfile_path=tmp_path / "repacked.nwb")
        assert "/acquisition/x/data" in filled[0]
    with h5py.File(tmp_path / "repacked.nwb") as file:
        assert np.array_equal(file["acquisition/x/data"], VOLTAGES)
    assert pynwb.validate(path=str(ours)) == []


def test_the_table_is_as_it_was_after_the_block() -> None:
    before = dict(helpers.BACKEND_NWB_IO)
    with parallel_backend(scheduler="sync"):
        kind = helpers.BACKEND_NWB_IO["hdf5"]
        assert issubclass(kind, NWBHDF5IO)
        assert kind.write_options.scheduler == "sync"
    assert before == helpers.BACKEND_NWB_IO
    parallel_backend().close()
    assert before == helpers.BACKEND_NWB_IO


def test_files_that_pynwb_has_read_are_files_of_the_backend(tmp_path: Path) -> None:
    """NeuroConv asks by ``isinstance`` which backend has read a file."""
    with pynwb.NWBHDF5IO(str(tmp_path / "x.nwb"), "w") as io:
        io.write(recording())
    with parallel_backend(), pynwb.NWBHDF5IO(str(tmp_path / "x.nwb"), "r") as io:
        assert isinstance(io, helpers.BACKEND_NWB_IO["hdf5"])
        assert not isinstance(io, helpers.BACKEND_NWB_IO["zarr"])
        assert helpers.get_existing_backend_configuration(io.read()).backend == "hdf5"


def test_the_examples_run() -> None:
    assert doctest.testmod(neuroconv).failed == 0
