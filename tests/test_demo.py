"""The demo's recording, and the demo."""

from __future__ import annotations

import pickle
import re
import tempfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio import to_hdf5
from dask_chunkio.cli.demo_recording import TILE, Recording, RepeatedRecording, save_excerpt
from dask_chunkio.cli.main import main

FRAMES, CHANNELS = 2 * TILE[0] + 100, TILE[1] + 20
WHOLE = Recording(FRAMES, CHANNELS)._get_data((slice(0, FRAMES), slice(0, CHANNELS)))


@settings(deadline=None, max_examples=10)
@given(st.data())
def test_every_selection_is_a_part_of_the_same_recording(data: st.DataObject) -> None:
    def within(length: int) -> slice:
        start = data.draw(st.integers(0, length))
        return slice(start, data.draw(st.integers(start, length)))

    selection = within(FRAMES), within(CHANNELS)
    np.testing.assert_array_equal(Recording(FRAMES, CHANNELS)._get_data(selection), WHOLE[selection])


@pytest.mark.parametrize("buffer_shape", [TILE, (2 * TILE[0], CHANNELS)])
def test_buffers_make_up_the_recording(buffer_shape: tuple[int, int]) -> None:
    copied = np.zeros_like(WHOLE)
    for chunk in pickle.loads(pickle.dumps(Recording(FRAMES, CHANNELS, buffer_shape=buffer_shape))):
        copied[chunk.selection] = chunk.data
    np.testing.assert_array_equal(copied, WHOLE)


def test_a_longer_recording_begins_like_a_shorter_one() -> None:
    longer = Recording(10 * FRAMES, CHANNELS)
    np.testing.assert_array_equal(longer._get_data((slice(0, FRAMES), slice(0, CHANNELS))), WHOLE)


def test_seeds_make_different_recordings() -> None:
    other = Recording(FRAMES, CHANNELS, seed=1)._get_data((slice(0, FRAMES), slice(0, CHANNELS)))
    assert np.mean(other == WHOLE) < 0.2


def test_it_looks_like_a_recording() -> None:
    voltages = WHOLE.astype("f8")
    noise = np.diff(voltages, axis=0).std() / np.sqrt(2)
    assert 1.5 < noise < 4
    # No two tiles share their noise, as copies would flatter every compression.
    assert abs(np.corrcoef(voltages[: TILE[0], 5], voltages[: TILE[0], TILE[1] + 5])[0, 1]) < 0.9
    assert np.mean(np.diff(WHOLE[: TILE[0]], axis=0) == np.diff(WHOLE[TILE[0] : 2 * TILE[0]], axis=0)) < 0.2
    baseline = np.median(voltages, axis=0)
    assert (voltages - baseline).min() < -80  # spikes
    assert np.ptp(baseline) > 20  # offsets of channels


LONG = 300_000
# The frames after which a repeated recording begins anew.
PERIOD = 10 * TILE[0] + 1


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> RepeatedRecording:
    path = str(tmp_path_factory.mktemp("excerpt") / "excerpt.npy")
    save_excerpt(path, LONG, TILE[1])
    return RepeatedRecording(path, LONG)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, LONG), st.integers(0, LONG), st.integers(0, TILE[1]), st.integers(0, TILE[1]))
def test_a_repeated_recording_repeats_a_recording(
    repeated: RepeatedRecording, frame: int, other: int, channel: int, last: int
) -> None:
    made = Recording(LONG, TILE[1])._get_data((slice(0, PERIOD), slice(0, TILE[1])))
    (start, stop), (left, right) = sorted((frame, other)), sorted((channel, last))
    data = repeated._get_data((slice(start, stop), slice(left, right)))
    np.testing.assert_array_equal(data, made[np.arange(start, stop) % PERIOD, left:right])


def test_a_repeated_recording_costs_nothing_to_read(repeated: RepeatedRecording) -> None:
    for start in (0, PERIOD - 1, 2 * PERIOD + 7):
        selection = slice(start, start + PERIOD), slice(0, TILE[1])
        # Both reads are views of one piece of memory.
        assert np.shares_memory(repeated._get_data(selection), repeated._get_data(selection))
    pickled = pickle.dumps(repeated)
    assert len(pickled) < 10_000
    np.testing.assert_array_equal(pickle.loads(pickled)[0].data, repeated[0].data)


def test_a_repeated_recording_is_stored_in_as_much_as_a_recording(repeated: RepeatedRecording) -> None:
    def stored(recording: Recording | RepeatedRecording) -> list[bytes]:
        starts = range(0, 12 * TILE[0], TILE[0])
        tiles = (recording._get_data((slice(n, n + TILE[0]), slice(0, TILE[1]))) for n in starts)
        return [zlib.compress(tile.tobytes(), 1) for tile in tiles]

    chunks, real = stored(repeated), stored(Recording(LONG, TILE[1]))
    assert len(set(chunks)) == len(chunks)
    assert sum(map(len, chunks)) == pytest.approx(sum(map(len, real)), rel=0.01)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's place for temporary files, for this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def run(*words: str) -> Result:
    result = CliRunner().invoke(main, ["demo", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.mark.parametrize(
    "words",
    [(), ("--scheduler", "processes", "--workers", "1")],
    ids=" ".join,
)
def test_demo(temporary: Path, words: tuple[str, ...]) -> None:
    result = run("--size-mb", "6", "--compare-mb", "2", *words)
    assert (result.exit_code, result.stderr) == (0, "")
    size = r"([\d.]+ [kM]iB)"
    rows = re.findall(rf"(dask\S+) +{size} +{size} +([\d.]+) +([\d.]+) s +{size}/s(.*)", result.stdout)
    assert [row[:2] for row in rows] == 2 * [("dask_chunkio", "5.72 MiB"), ("dask.array.to_hdf5", "1.91 MiB")]
    assert all(float(ratio) > 2 for _, _, _, ratio, *_ in rows)
    assert all(row[-1].endswith("x as fast") for row in rows[1::2])
    assert "writes its first 1.91 MiB" in result.stdout
    assert "are equal to the recording and to dask's." in result.stdout
    assert not list(temporary.glob("dask-chunkio-demo*"))


def test_demo_without_comparison(temporary: Path) -> None:
    result = run("--size-mb", "1", "--compare-mb", "0", "--progress", "--scheduler", "synchronous")
    assert result.exit_code == 0
    assert "dask.array" not in result.stdout
    assert "/raw: 100%" in result.stderr
    assert not list(temporary.glob("dask-chunkio-demo*"))


def test_demo_keeps_its_files(tmp_path: Path) -> None:
    result = run("--size-mb", "1", "--keep", "--folder", str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert f"Kept in {folder}: gzip-1-dask.h5, gzip-1.h5, gzip-4-dask.h5, gzip-4.h5" in result.stdout
    recording = Recording(1_000_000 // (2 * 384), 384)
    everything = tuple(slice(0, length) for length in recording.maxshape)
    for path in folder.iterdir():
        with h5py.File(path, "r") as file:
            dataset = file["raw"]
            assert (dataset.chunks, dataset.compression, dataset.shuffle) == (recording.chunk_shape, "gzip", True)
            assert dataset.compression_opts == int(path.name.split("-")[1].removesuffix(".h5"))
            np.testing.assert_array_equal(dataset[()], recording._get_data(everything))


def test_demo_finds_a_file_that_differs(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(path: str, *arguments: Any, **keywords: Any) -> Any:
        result = to_hdf5(path, *arguments, **keywords)
        if path.endswith("gzip-1.h5"):
            with h5py.File(path, "r+") as file:
                file["raw"][...] = 0
        return result

    monkeypatch.setattr("dask_chunkio.cli.demo.to_hdf5", spoiled)
    result = run("--size-mb", "1")
    assert result.exit_code == 1
    assert "gzip-1.h5 differs from the recording" in result.stderr
    assert not list(temporary.glob("dask-chunkio-demo*"))


def test_demo_without_room(tmp_path: Path) -> None:
    result = run("--size-mb", str(10**9), "--compare-mb", "0", "--folder", str(tmp_path))
    assert result.exit_code == 1
    assert "give a smaller --size-mb, or another --folder" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_demo_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert run("--folder", str(tmp_path / "none")).exit_code == 2
