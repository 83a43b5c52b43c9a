"""The structure of the package: floors, imports, names and sizes."""

import ast
import collections
import functools
import graphlib
import pickle
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

import dask_chunkio
from dask_chunkio import errors

PACKAGE = Path(dask_chunkio.__file__).parent
TESTS = Path(__file__).parent

# From the ground up; a name that ends in a dot stands for a folder.
FLOORS = (
    {
        "child_pool",
        "child_process",
        "process_limits",
        "errors",
        "events",
        "forked_worker",
        "isolated_call",
        "isolated_process",
        "keywords",
        "paths",
        "printable",
        "validation",
        "geometry.",
    },
    {"iterator", "data_chunk", "filters."},
    {"storage."},
    {"reading."},
    {"sources."},
    {"references."},
    {"config", "dask_compat", "results", "model"},
    {"planning."},
    {"execution."},
    {"write", "read"},
    {"drafts"},
    {"repacking."},
    {"__init__", "__main__", "cli.", "integrations."},
)
# Those of storage.
STORAGE_FLOORS = (
    {"filesystem."},
    {"journal."},
    {"activity.", "hdf5."},
    {"draft_paths", "side_paths", "target", "made_folder", "store_folder", "tokens", "chunk_index", "payload_overlap"},
    {"completeness", "redo_log", "take_over", "open_transaction", "open_files", "payload_file"},
    {"transaction", "read_lock"},
    {"extent", "index_repair", "visible_chunks", "preconditions", "creation", "publish", "inspection."},
    {"drafts.", "writer"},
    {"session"},
    {"begin", "finish", "recovery"},
    {"regions"},
)
# The modules of storage that other packages may import: the steps of a write, and what it is told of.
STORAGE_DOORS = {
    "begin",
    "session",
    "read_lock",
    "writer",
    "visible_chunks",
    "extent",
    "store_folder",
    "finish",
    "recovery",
    "inspection.",
    "preconditions",
    "chunk_index",
    "regions",
    "completeness",
    "draft_paths",
    "drafts.",
    "target",
    "tokens",
    "activity.keepalive",
    "activity.limits",
    "hdf5.staged_file",
    "journal.journal",
    "filesystem.descriptors",
    "filesystem.side_folder",
    "filesystem.io",
    "filesystem.locks",
    "hdf5.dataset",
    "hdf5.file_layout",
    "hdf5.h5py_compat",
    "hdf5.raw_access",
    "journal.draft_manifest",
}
STANDARD = sys.stdlib_module_names
HDMF = {
    "integrations.hdmf",
    *(
        f"integrations.hdmf.{name}"
        for name in (
            "compat",
            "dask_iterator",
            "drafted_io",
            "named_file",
            "options",
            "paged_file",
            "queue",
            "rows",
            "selection",
            "target",
        )
    ),
}
XARRAY = {
    "integrations.xarray",
    *(f"integrations.xarray.{name}" for name in ("append", "compat", "engine", "structure", "write")),
    "integrations.xarray_engine",
}
ZARR = {f"integrations.zarr.{name}" for name in ("compat", "to_hdf5")}
OF_HDF5 = ("array_write", "attributes", "dimensions", "elements", "from_hdf5", "objects", "to_hdf5")
# Who may import what is not in Python, and is not numpy.
GUESTS = {
    "h5py": {
        "storage.",
        "reading.",
        "filters.",
        "references.",
        "repacking.",
        "integrations.xarray.structure",
        "integrations.xarray.write",
        "cli.demo",
        "cli.inputs",
        "cli.resume",
        "integrations.zarr",
        *(f"integrations.zarr.{name}" for name in OF_HDF5),
        *HDMF,
    },
    "dask": {
        "config",
        "dask_compat",
        "results",
        "write",
        "read",
        "planning.array_blocks",
        "planning.plan",
        "planning.plan_html",
        "planning.planner",
        "planning.resources",
        "execution.",
        "cli.",
        *XARRAY,
        *HDMF,
    },
    "hdf5plugin": {"filters.plugin", "filters.names"},
    "hdmf": HDMF,
    "pynwb": {"integrations.pynwb", "integrations.neuroconv"},
    "neuroconv": {"integrations.neuroconv"},
    "xarray": XARRAY | {"integrations.virtualizarr"},
    "isal": {"filters.deflate", "filters.literal_planes"},
    "deflate": {"filters.deflate", "filters.literal_planes"},
    "xxhash": {"storage.journal.checksum"},
    "cloudpickle": {"planning.resources"},
    "psutil": {
        "storage.filesystem.kind",
        "storage.activity.lease",
        "storage.filesystem.boot",
        "planning.resources",
        "cli.",
    },
    "tqdm": {"execution.progress", "iterator"},
    "click": {"cli."},
    "virtualizarr": {"integrations.virtualizarr"},
    "fastparquet": {"references.parquet_format"},
    "pandas": {"references.parquet_format"},
    "numcodecs": {"integrations.zarr.compat"},
    "zarr": {"sources.zarr_chunks", *ZARR},
}
LAZY = {
    ("references.parquet_format", "fastparquet"),
    ("references.parquet_format", "pandas"),
    ("integrations.virtualizarr", "virtualizarr"),
    ("integrations.virtualizarr", "xarray"),
    ("filters.plugin", "hdf5plugin"),
    ("filters.names", "hdf5plugin"),
    ("iterator", "tqdm"),
    ("execution.progress", "tqdm"),
    ("sources.zarr_chunks", "zarr"),
}

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def stands_in(module: str, names: Collection[str]) -> bool:
    return module in names or f"{module.partition('.')[0]}." in names


def floor(module: str) -> tuple[int, int]:
    """The number of the floor, and inside storage that of storage's."""
    place = _number(module, FLOORS)
    inside = module.removeprefix("storage.")
    return place, (_number(inside, STORAGE_FLOORS) if inside not in (module, "storage") else 0)


def _number(module: str, floors: Sequence[set[str]]) -> int:
    found = [number for number, names in enumerate(floors) if stands_in(module, names)]
    assert len(found) == 1, f"{module} needs a place among the floors"
    return found[0]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(name, whether it is imported at the top, or for types only) of everything that a file imports."""
    tree = parsed(path)
    for_types = [one for one in tree.body if isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING"]
    top = {id(node) for node in tree.body} | {id(node) for one in for_types for node in one.body}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from ((name, id(node) in top) for name in names)


def own(name: str) -> str | None:
    """The module of ours that an import means, or None."""
    parts = name.split(".")
    if parts[0] != "dask_chunkio":
        return None
    for end in (len(parts), len(parts) - 1):
        if (module := ".".join(parts[1:end])) in MODULES:
            return module
    return "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    for name, _ in imports(MODULES[module]):
        if (other := own(name)) is not None:
            assert floor(other) <= floor(module), f"{module} is below {other}"


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("storage")])
def test_storage_is_entered_by_its_doors(module: str) -> None:
    used = {other for name, _ in imports(MODULES[module]) if (other := own(name)) is not None}
    inside = {name.removeprefix("storage.") for name in used if name.startswith("storage.")}
    assert not [name for name in inside if not stands_in(name, STORAGE_DOORS)]


def test_no_two_modules_import_one_another() -> None:
    graph = {m: {other for name, _ in imports(path) if (other := own(name))} - {m} for m, path in MODULES.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_guests_come_in_where_they_are_expected(module: str) -> None:
    for name, is_top in imports(MODULES[module]):
        guest = name.partition(".")[0]
        if guest in STANDARD or guest in ("numpy", "dask_chunkio"):
            continue
        assert stands_in(module, GUESTS.get(guest, ())), f"{module} imports {guest}"
        assert is_top == ((module, guest) not in LAZY), f"{module} imports {guest} in the wrong place"


@pytest.mark.parametrize("module", [m for m in MODULES if floor(m) < (6, 0)])
def test_nothing_below_planning_knows_of_dask(module: str) -> None:
    assert not {name.partition(".")[0] for name, _ in imports(MODULES[module])} & {"dask", "distributed"}


def test_one_module_writes_to_the_terminal() -> None:
    """So that names and contents of files are quoted."""
    for module, path in MODULES.items():
        if module != "cli.terminal":
            calls = [one for one in ast.walk(parsed(path)) if isinstance(one, ast.Call)]
            called = {ast.unparse(one.func) for one in calls}
            assert not called & {"print", "click.echo", "click.secho", "sys.stderr.write"}, module


def last_line(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno


# It has hdmf's contract.
LARGE = {"GenericDataChunkIterator"}


@pytest.mark.parametrize("module", MODULES)
def test_a_class_can_be_read_in_one_sitting(module: str) -> None:
    for node in ast.walk(parsed(MODULES[module])):
        if isinstance(node, ast.ClassDef) and node.name not in LARGE:
            assert last_line(node) - node.lineno < 200, node.name
            assert sum(isinstance(one, ast.FunctionDef) for one in node.body) <= 15, node.name


@pytest.mark.parametrize("module", MODULES)
def test_a_function_can_be_read_at_a_glance(module: str) -> None:
    for node in ast.walk(parsed(MODULES[module])):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            assert not body or last_line(body[-1]) - body[0].lineno < 34, node.name


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("_")])
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(parsed(MODULES[module]))


def test_public_names() -> None:
    assert dask_chunkio.__all__ == [
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
    for name in dask_chunkio.__all__:
        assert getattr(dask_chunkio, name).__doc__
    assert set(dir(dask_chunkio)) == {*dask_chunkio.__all__, "__version__"}


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_arrive_whole_from_another_process(name: str) -> None:
    kind = getattr(errors, name)
    error = kind("what was wrong; what to do")
    error.add_note("where")
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is kind
    assert str(found) == "what was wrong; what to do"
    assert found.args == error.args
    assert found.__notes__ == ["where"]


def test_the_tree_of_errors_is_as_drawn() -> None:
    kinds = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    assert set(errors.__all__) == kinds.keys()
    drawn, parents = {}, ["ChunkIOError"]
    for line in errors.__doc__.splitlines():
        branch, _, words = line.partition("── ")
        if words:
            depth = len(branch) // 4  # 4 columns a level, behind the margin
            name = words.split()[0]
            builtin = words.partition("(")[2].partition(")")[0]
            drawn[name] = parents[depth - 1], builtin
            parents[depth:] = [name]
    assert drawn.keys() == kinds.keys() - {"ChunkIOError"}
    for name, (parent, builtin) in drawn.items():
        assert [base.__name__ for base in kinds[name].__bases__] == [parent, *([builtin] if builtin else [])]


def loaded_by(script: str) -> set[str]:
    script = f"import sys, dask_chunkio\n{script}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_us_imports_no_package_that_is_not_needed() -> None:
    # dask.array takes half a second, and imports pandas and xarray where they are installed.
    loaded = loaded_by("dask_chunkio.to_hdf5, dask_chunkio.plan, dask_chunkio.verify, dask_chunkio.repack")
    assert {"numpy", "h5py", "dask"} <= loaded
    assert not loaded & {
        "dask.array",
        "distributed",
        "hdmf",
        "pynwb",
        "zarr",
        "h5netcdf",
        "hdf5plugin",
        "matplotlib",
        "bokeh",
        "pyfive",
    }


def test_a_write_of_anything_but_a_dask_array_does_not_import_dask_array(tmp_path: Path) -> None:
    script = (
        f"import numpy; dask_chunkio.to_hdf5({str(tmp_path / 'x.h5')!r}, '/x', numpy.arange(100), chunks=(10,), "
        "compression='gzip', progress=False)"
    )
    assert not loaded_by(script) & {"dask.array", "pandas"}


def test_the_help_of_the_program_imports_no_command() -> None:
    script = "from dask_chunkio.cli.main import main; main(['--help'], standalone_mode=False)"
    loaded = loaded_by(script)
    assert "dask_chunkio.cli.terminal" in loaded
    assert not loaded & {"numpy", "h5py", "dask.array", "dask_chunkio.cli.write", "dask_chunkio.cli.maintenance"}


def test_a_repack_imports_neither_dask_array_nor_distributed() -> None:
    """They take a second, which is a third of the time for a gigabyte."""
    script = """
import os, tempfile
import h5py
with tempfile.TemporaryDirectory() as folder:
    old, new = os.path.join(folder, 'old.h5'), os.path.join(folder, 'new.h5')
    with h5py.File(old, 'w') as file:
        file['x'] = [7] * 400_000
    done = dask_chunkio.repack(old, new, filters='GZIP=1', progress=False)
    assert [one.in_parallel for one in done.datasets] == [True]
"""
    loaded = loaded_by(script)
    assert "dask_chunkio.execution.tasks" in loaded
    assert not loaded & {"dask.array", "distributed", "xarray", "pandas"}


def test_a_public_name_imports_its_module_at_its_first_use() -> None:
    """So `import dask_chunkio` costs next to nothing; the settings are there all the same."""
    loaded = loaded_by("import dask; dask.config.get('chunkio.chunk-size')")
    assert not loaded & {"numpy", "h5py", "dask.array", "dask_chunkio.write", "dask_chunkio.iterator"}
    assert "h5py" not in loaded_by("dask_chunkio.GenericDataChunkIterator, dask_chunkio.DataChunk")


def test_every_public_name_is_there() -> None:
    for name in dask_chunkio.__all__:
        found = getattr(dask_chunkio, name)
        assert getattr(found, "__name__", name).rpartition(".")[2] == name
        assert found.__doc__
    with pytest.raises(AttributeError, match="module 'dask_chunkio' has no attribute 'nothing'"):
        _ = dask_chunkio.nothing


def test_the_names_of_test_files_are_unique() -> None:
    """What is no test and no conftest.py is found in tests/support, under one name: each folder is a package."""
    paths = [path for path in TESTS.rglob("*.py") if path.name != "__init__.py"]
    names = collections.Counter(path.name for path in paths if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []
    others = {path for path in paths if not path.name.startswith("test_")} - {TESTS / "conftest.py"}
    assert [path for path in others if TESTS / "support" not in path.parents] == []
    assert [path for path in paths if not (path.parent / "__init__.py").exists()] == []


def test_one_module_asks_hdf5_about_chunks() -> None:
    """HDF5's own answers are wrong for some indexes (`storage.chunk_index`)."""
    for module, path in MODULES.items():
        if module != "storage.chunk_index":
            asked = {node.attr for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)}
            assert not asked & {"chunk_iter", "get_chunk_info", "get_chunk_info_by_coord", "get_num_chunks"}, module


@pytest.mark.parametrize("module", [m for m in MODULES if m != "storage.filesystem.descriptors"])
def test_files_are_opened_where_forked_children_close_them(module: str) -> None:
    source = MODULES[module].read_text()
    assert "os.open(" not in source
    assert "os.close(" not in source
