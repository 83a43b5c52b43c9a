"""What a write says of itself when it is done."""

from pathlib import Path

import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio import DatasetResult, WriteResult

SMALL = DatasetResult("/x", (1024, 1024), np.dtype("i2"), 2 << 20, 1 << 20, 2, 4)
LARGE = DatasetResult("/<b>", (3, 1 << 29), np.dtype("i2"), 3 << 30, 1 << 29, 12, 48)


def test_it_says_itself_in_one_line() -> None:
    result = WriteResult("/data/out.h5", (SMALL,), 0.5)
    assert repr(result) == (
        "WriteResult of /data/out.h5: /x, 2.00 MiB stored in 1.00 MiB (ratio 2.00) in 0.50 s, 4.00 MiB/s"
    )
    assert str(result) == repr(result)
    both = WriteResult("/data/out\n.h5", (SMALL, LARGE), 2.0)
    assert repr(both).startswith(r"WriteResult of /data/out\n.h5: 2 datasets, 3.00 GiB stored in 513.00 MiB")


def test_ratio_and_rate() -> None:
    result = WriteResult("out.h5", (SMALL, LARGE), 2.0)
    assert result.ratio == result.nbytes / result.stored_nbytes == (2 + 3072) / (1 + 512)
    assert result.rate == result.nbytes / 2


@pytest.mark.parametrize("nbytes", [0, 100])
def test_ratio_and_rate_where_there_is_nothing_to_divide_by(nbytes: int) -> None:
    empty = DatasetResult("/x", (0,), np.dtype("i2"), nbytes, 0, 0, 0)
    result = WriteResult("out.h5", (empty,), 0.0, already_complete=True)
    assert (result.ratio, result.rate) == (1.0, 0.0)
    assert "there already; nothing was written" in repr(result)


def test_a_notebook_shows_a_table() -> None:
    shown = WriteResult("/data/<i>.h5", (SMALL, LARGE), 2.0, notes=("<mended>",))._repr_html_()
    assert shown.count("<tr>") == shown.count("</tr>") == 3
    assert "/data/&lt;i&gt;.h5" in shown
    assert "/&lt;b&gt;" in shown
    assert "&lt;mended&gt;" in shown
    for cell in ("(1024, 1024)", "int16", "2.00 MiB", "1.00 MiB", "3.00 GiB", "512.00 MiB", "6.00", "48"):
        assert f"<td>{cell}</td>" in shown


def test_a_write_returns_it(target: Path) -> None:
    result = dcio.to_hdf5(target, "/x", np.zeros((1000, 64), "i2"), compression="gzip")
    assert result.ratio > 20
    assert result.rate > 0
    assert "\n" not in repr(result)
    assert repr(result).startswith("WriteResult of ")
