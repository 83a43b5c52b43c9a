"""The HDF5 file while a transaction has it open."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

import h5py

from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.hdf5.file_layout import keep_free_space
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from dask_chunkio.storage.target import Target

__all__ = ["OpenTransaction"]


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """The HDF5 file while it is open, with the handles of its datasets."""

    staged: StagedFile
    h5: h5py.File
    ids: dict[str, h5py.h5d.DatasetID] = field(default_factory=dict)

    @classmethod
    def on(cls, descriptor: int, target: Target, mode: str) -> OpenTransaction:
        """Open a file with HDF5, and stage what HDF5 writes.

        Raises
        ------
        IntegrityError
            If HDF5 cannot open it.
        """
        staged = StagedFile(descriptor)
        # An existing file keeps the layout with which it was created.
        layout = target.layout.keywords if target.layout is not None and mode == "w" else {}
        try:
            return cls(staged, h5py.File(staged, mode, libver=target.libver, **layout))
        except Exception as error:
            # h5py's frames hold property lists that point to `staged`.
            # If they live until the interpreter ends, it crashes.
            traceback.clear_frames(error.__traceback__)
            staged.check()
            raise IntegrityError(f"HDF5 cannot open {target.file}: {error}") from None

    def close(self) -> None:
        """Close the file; what HDF5 writes then is staged."""
        keep_free_space(self.h5)
        self.h5.close()

    def id_of(self, path: str) -> h5py.h5d.DatasetID:
        """Return the handle of a dataset.

        It is looked up by name only once, because a lookup takes longer than a reservation.

        Raises
        ------
        IntegrityError
            If another program has removed the dataset.
        """
        if path not in self.ids:
            self.ids[path] = self._opened(path)
        return self.ids[path]

    def dataset(self, path: str) -> h5py.Dataset:
        """Return a dataset.

        Raises
        ------
        IntegrityError
            If another program has removed the dataset.
        """
        return h5py.Dataset(self._opened(path))

    def _opened(self, path: str) -> h5py.h5d.DatasetID:
        try:
            found = h5py.h5o.open(self.h5.id, path.encode())
        except KeyError:
            found = None
        if not isinstance(found, h5py.h5d.DatasetID):
            raise IntegrityError(f"{path} is no longer in the file: another program has removed it; discard the write")
        return found
