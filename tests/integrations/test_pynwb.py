"""Our ``NWBHDF5IO`` in the place of PyNWB's: the same file, of the same objects, valid, appended to and exported."""

from __future__ import annotations

import datetime
import itertools
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pynwb
import pytest
from hdmf.backends.hdf5 import H5DataIO
from hdmf.data_utils import DataChunkIterator
from pynwb import NWBFile, TimeSeries
from pynwb.ecephys import ElectricalSeries
from pynwb.ophys import OpticalChannel, PlaneSegmentation, TwoPhotonSeries

from dask_chunkio.integrations import hdmf
from dask_chunkio.integrations.hdmf import DaskIterator
from dask_chunkio.integrations.pynwb import NWBHDF5IO
from tests.support.files import content
from tests.support.hdmf_iterators import FromArrayOfHdmf
from tests.support.iterators import FromArray
from tests.support.metadata import NotingFile, metadata_end, page_nbytes

WHEN = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
VOLTAGES = np.random.default_rng(0).integers(-500, 500, (3000, 16), "i2")
FRAMES = np.random.default_rng(1).integers(0, 4000, (60, 24, 32), "u2")
GZIP: dict[str, Any] = {"compression": "gzip", "shuffle": True}
EVERYTHING = {"parallel_threshold": 0}


@pytest.fixture
def same_ids(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Objects get the same ids each time that the function is called."""

    def begin() -> None:
        numbers = itertools.count()
        monkeypatch.setattr("hdmf.container.uuid4", lambda: uuid.UUID(int=next(numbers)))

    return begin


def session() -> NWBFile:
    return NWBFile(
        session_description="All kinds of data",
        identifier="session",
        session_start_time=WHEN,
        file_create_date=WHEN,
        session_id="1",
        experimenter=["Doe, Jane"],
        institution="Somewhere",
        keywords=["test"],
    )


def add_voltages(file: NWBFile) -> None:
    device = file.create_device(name="probe")
    group = file.create_electrode_group(name="shank", description="one", location="CA1", device=device)
    for number in range(16):
        file.add_electrode(location="CA1", group=group, x=float(number))
    region = file.create_electrode_table_region(region=list(range(16)), description="all")
    shapes = {"chunk_shape": (500, 16), "buffer_shape": (1000, 16)}
    blocks = da.from_array(VOLTAGES, chunks=(700, 16))
    kinds = {
        "plain": VOLTAGES,
        "array": H5DataIO(VOLTAGES, chunks=(500, 16), **GZIP),
        "ours": H5DataIO(FromArray(VOLTAGES, **shapes), **GZIP),
        "theirs": H5DataIO(FromArrayOfHdmf(VOLTAGES, **shapes), **GZIP),
        "bare": FromArray(VOLTAGES, **shapes),
        "dask": H5DataIO(DaskIterator(blocks, **shapes), **GZIP),
        "stream": H5DataIO(DataChunkIterator(iter(VOLTAGES), buffer_size=512), **GZIP),
    }
    for name, data in kinds.items():
        stamps = H5DataIO(np.arange(3000) / 30e3, **GZIP)
        file.add_acquisition(ElectricalSeries(name=name, data=data, electrodes=region, timestamps=stamps))


def add_frames(file: NWBFile) -> None:
    channel = OpticalChannel(name="green", description="GCaMP", emission_lambda=500.0)
    plane = file.create_imaging_plane(
        name="plane",
        optical_channel=channel,
        description="one",
        device=file.create_device(name="microscope"),
        excitation_lambda=900.0,
        indicator="GCaMP",
        location="V1",
    )
    frames = FromArray(FRAMES, chunk_shape=(10, 24, 32), buffer_shape=(20, 24, 32))
    series = TwoPhotonSeries(name="frames", data=H5DataIO(frames, **GZIP), imaging_plane=plane, rate=30.0, unit="n.a.")
    file.add_acquisition(series)
    cells = PlaneSegmentation(name="cells", description="found", imaging_plane=plane, reference_images=series)
    rng = np.random.default_rng(2)
    for number in range(8):
        pixels = [(int(x), int(y), 1.0) for x, y in rng.integers(0, 24, (number + 2, 2))]
        cells.add_roi(pixel_mask=pixels)
    file.create_processing_module(name="ophys", description="cells").add(cells)
    masks = PlaneSegmentation(name="masks", description="images", imaging_plane=plane)
    masks.add_column(name="area", description="pixels", data=[])
    for _ in range(5):
        masks.add_roi(image_mask=rng.random((24, 32)), area=3)
    file.processing["ophys"].add(masks)


def add_units(file: NWBFile) -> None:
    file.add_unit_column(name="quality", description="a number")
    file.add_unit_column(name="label", description="a word")
    rng = np.random.default_rng(3)
    for number in range(12):
        times = np.sort(rng.random(100 + 300 * (number % 3)))
        file.add_unit(spike_times=times, quality=number / 3, label=f"unit {number}", waveform_mean=rng.random(40))
    file.units["spike_times"].target.set_data_io(H5DataIO, {**GZIP, "chunks": (200,), "maxshape": (None,)})


def everything() -> NWBFile:
    file = session()
    add_voltages(file)
    add_frames(file)
    add_units(file)
    return file


def properties(dataset: h5py.Dataset) -> Any:
    """What two files must share of a dataset."""
    opaque = dataset.dtype.hasobject or dataset.dtype.kind == "V"
    data = None if opaque else dataset[...].tobytes()
    return data, *(
        getattr(dataset, name) for name in ("shape", "dtype", "maxshape", "chunks", "compression", "shuffle")
    )


def differences(one: Path, other: Path) -> str:
    """Say how two files differ; references are compared by h5diff, since h5py's have no values."""
    mine, theirs = (content(path, properties, without=REFERENCES) for path in (one, other))
    found = [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]
    if shutil.which("h5diff") is not None:
        done = subprocess.run(["h5diff", "-c", str(one), str(other)], capture_output=True, text=True, check=False)
        found += [line for line in done.stdout.splitlines() if "not comparable" not in line]
    return "\n".join(found)


REFERENCES = (".specloc", "table", "target", "region", "timeseries")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(EVERYTHING, id="all"),
        pytest.param({"parallel_threshold": 40_000}, id="some", marks=pytest.mark.heavy),
        pytest.param({}, id="none", marks=pytest.mark.heavy),
    ],
)
def test_the_file_is_that_of_pynwb(options: dict[str, Any], tmp_path: Path, same_ids: Any) -> None:
    theirs, ours = tmp_path / "theirs.nwb", tmp_path / "ours.nwb"
    for path, kind, own in ((theirs, pynwb.NWBHDF5IO, {}), (ours, NWBHDF5IO, options)):
        same_ids()
        with kind(str(path), mode="w", **own) as io:
            io.write(everything())
    assert differences(theirs, ours) == ""
    assert pynwb.validate(path=str(ours)) == pynwb.validate(path=str(theirs)) == []
    assert inspected(ours) == inspected(theirs)


def inspected(path: Path) -> list[tuple[str, str, str]]:
    """What the inspector of NWB says about a file."""
    nwbinspector = pytest.importorskip("nwbinspector")
    found = nwbinspector.inspect_nwbfile(nwbfile_path=str(path))
    return sorted((one.check_function_name, one.message, str(one.object_name)) for one in found)


def test_appended_to_and_exported(tmp_path: Path, same_ids: Any) -> None:
    paths = {}
    for name, kind, own in (("theirs", pynwb.NWBHDF5IO, {}), ("ours", NWBHDF5IO, EVERYTHING)):
        paths[name], copy = tmp_path / f"{name}.nwb", tmp_path / f"{name} copy.nwb"
        same_ids()
        with kind(str(paths[name]), mode="w", **own) as io:
            io.write(everything())
        with kind(str(paths[name]), mode="r+", **own) as io:
            file = io.read()
            more = H5DataIO(FromArray(VOLTAGES, chunk_shape=(500, 16), buffer_shape=(1000, 16)), **GZIP)
            file.add_acquisition(TimeSeries(name="more", data=more, unit="V", rate=1.0))
            file.units.add_column(name="depth", description="in mm", data=list(range(12)))
            io.write(file)
            assert np.array_equal(file.acquisition["ours"].data, VOLTAGES)
        with pynwb.NWBHDF5IO(str(paths[name]), mode="r") as io, kind(str(copy), mode="w", **own) as export:
            export.export(src_io=io, nwbfile=io.read())
        assert pynwb.validate(path=str(copy)) == []
    assert differences(paths["theirs"], paths["ours"]) == ""
    assert differences(tmp_path / "theirs copy.nwb", tmp_path / "ours copy.nwb") == ""


def test_the_class_is_found_in_the_module_of_hdmf() -> None:
    assert hdmf.NWBHDF5IO is NWBHDF5IO
    with pytest.raises(AttributeError, match="no attribute 'NWBZarrIO'"):
        _ = hdmf.NWBZarrIO


def test_options_of_pynwb(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"does not end in '\.nwb'"), NWBHDF5IO(tmp_path / "x.h5", "w") as io:
        io.write(session())
    assert NWBHDF5IO.can_read(str(tmp_path / "x.h5"))
    with NWBHDF5IO(tmp_path / "x.h5", load_namespaces=True) as io:
        assert io.read().identifier == "session"
        assert io.nwb_version[1][0] >= 2


def test_a_file_for_the_cloud(tmp_path: Path, same_ids: Any) -> None:
    theirs, ours = tmp_path / "theirs.nwb", tmp_path / "ours.nwb"
    for path, kind, own in ((theirs, pynwb.NWBHDF5IO, {}), (ours, NWBHDF5IO, {**EVERYTHING, "layout": "cloud"})):
        same_ids()
        with kind(str(path), mode="w", **own) as io:
            io.write(everything())
    assert differences(theirs, ours) == ""
    assert pynwb.validate(path=str(ours)) == []
    page = page_nbytes(ours)
    assert metadata_end(ours) <= page
    with NotingFile(ours) as noting, h5py.File(noting, "r") as file:
        with pynwb.NWBHDF5IO(file=file, mode="r") as io:
            io.read()
        pages = {n for start, stop in noting.ranges for n in range(start // page, (stop - 1) // page + 1)}
        assert len(pages) <= 3
