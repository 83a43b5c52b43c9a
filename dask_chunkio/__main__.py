"""Entry point of ``python -m dask_chunkio``, which runs the program ``dask-chunkio``."""

from dask_chunkio.cli.main import main

if __name__ == "__main__":
    main(prog_name="python -m dask_chunkio")
