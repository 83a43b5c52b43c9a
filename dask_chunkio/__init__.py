"""Write arrays larger than memory to one compressed HDF5 file, in parallel, with dask.

A public name imports its module at its first use (PEP 562, SPEC 1 of scientific-python.org): ``import dask_chunkio``
loads neither h5py nor dask.array.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dask_chunkio import config, errors  # noqa: F401, config adds the section "chunkio" to dask's configuration

if TYPE_CHECKING:
    from dask_chunkio.data_chunk import DataChunk
    from dask_chunkio.drafts import Draft, draft
    from dask_chunkio.events import BufferCommitted, WriteEvent, WriteFailed, WriteFinished, WriteStarted
    from dask_chunkio.geometry.grid import BufferGrid, ChunkGrid
    from dask_chunkio.integrations.zarr import convert
    from dask_chunkio.integrations.zarr.records import Conversion
    from dask_chunkio.iterator import GenericDataChunkIterator
    from dask_chunkio.planning.plan import DatasetPlan, NetworkOpening, WritePlan
    from dask_chunkio.read import VerificationReport, from_hdf5, open_array, verify
    from dask_chunkio.reading.array import Hdf5Array
    from dask_chunkio.references.write import ReferencesResult, write_references
    from dask_chunkio.repacking.repack import repack
    from dask_chunkio.repacking.results import RepackedDataset, RepackResult
    from dask_chunkio.results import DatasetResult, WriteResult
    from dask_chunkio.storage.inspection.status import DatasetState, UnfinishedWrite, status
    from dask_chunkio.storage.recovery import RecoveryResult, discard, recover
    from dask_chunkio.write import plan, to_hdf5

__all__ = [
    "BufferCommitted",
    "BufferGrid",
    "ChunkGrid",
    "Conversion",
    "DataChunk",
    "DatasetPlan",
    "DatasetResult",
    "DatasetState",
    "Draft",
    "GenericDataChunkIterator",
    "Hdf5Array",
    "NetworkOpening",
    "RecoveryResult",
    "ReferencesResult",
    "RepackResult",
    "RepackedDataset",
    "UnfinishedWrite",
    "VerificationReport",
    "WriteEvent",
    "WriteFailed",
    "WriteFinished",
    "WritePlan",
    "WriteResult",
    "WriteStarted",
    "convert",
    "discard",
    "draft",
    "errors",
    "from_hdf5",
    "open_array",
    "plan",
    "recover",
    "repack",
    "status",
    "to_hdf5",
    "verify",
    "write_references",
]
__version__ = "0.1.0.dev0"

_MODULES = {
    "BufferCommitted": "events",
    "BufferGrid": "geometry.grid",
    "ChunkGrid": "geometry.grid",
    "Conversion": "integrations.zarr.records",
    "DataChunk": "data_chunk",
    "DatasetPlan": "planning.plan",
    "DatasetResult": "results",
    "DatasetState": "storage.inspection.status",
    "Draft": "drafts",
    "GenericDataChunkIterator": "iterator",
    "Hdf5Array": "reading.array",
    "NetworkOpening": "planning.plan",
    "RecoveryResult": "storage.recovery",
    "ReferencesResult": "references.write",
    "RepackResult": "repacking.results",
    "RepackedDataset": "repacking.results",
    "UnfinishedWrite": "storage.inspection.status",
    "VerificationReport": "read",
    "WriteEvent": "events",
    "WriteFailed": "events",
    "WriteFinished": "events",
    "WritePlan": "planning.plan",
    "WriteResult": "results",
    "WriteStarted": "events",
    "convert": "integrations.zarr",
    "discard": "storage.recovery",
    "draft": "drafts",
    "from_hdf5": "read",
    "open_array": "read",
    "plan": "write",
    "recover": "storage.recovery",
    "repack": "repacking.repack",
    "status": "storage.inspection.status",
    "to_hdf5": "write",
    "verify": "read",
    "write_references": "references.write",
}


def __getattr__(name: str) -> Any:
    """Import the module that defines a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names, without the modules that define them."""
    return [*__all__, "__version__"]
