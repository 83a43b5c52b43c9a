"""Write arrays larger than memory to one compressed HDF5 file, in parallel, with dask."""

from dask_chunkio import errors
from dask_chunkio.data_chunk import DataChunk
from dask_chunkio.events import BufferCommitted, WriteEvent, WriteFailed, WriteFinished, WriteStarted
from dask_chunkio.geometry.grid import BufferGrid, ChunkGrid
from dask_chunkio.iterator import GenericDataChunkIterator
from dask_chunkio.planning.plan import DatasetPlan, WritePlan
from dask_chunkio.results import DatasetResult, WriteResult
from dask_chunkio.storage.inspection.status import DatasetState, UnfinishedWrite, status
from dask_chunkio.storage.inspection.verify import VerificationReport, verify
from dask_chunkio.storage.recovery import RecoveryResult, discard, recover
from dask_chunkio.write import plan, to_hdf5

__all__ = [
    "BufferCommitted",
    "BufferGrid",
    "ChunkGrid",
    "DataChunk",
    "DatasetPlan",
    "DatasetResult",
    "DatasetState",
    "GenericDataChunkIterator",
    "RecoveryResult",
    "UnfinishedWrite",
    "VerificationReport",
    "WriteEvent",
    "WriteFailed",
    "WriteFinished",
    "WritePlan",
    "WriteResult",
    "WriteStarted",
    "discard",
    "errors",
    "plan",
    "recover",
    "status",
    "to_hdf5",
    "verify",
]
__version__ = "0.1.0.dev0"


def __dir__() -> list[str]:
    """Return the public names, without the modules that define them."""
    return [*__all__, "__version__"]
