"""What keeps a write alive: whoever runs its graph, not an object that outlives that."""

from writes import Write

from dask_chunkio.storage import writers
from dask_chunkio.storage.keepalive import Held, Keepalive, let_go, settle


def test_an_object_that_outlives_its_graph_keeps_nothing_alive(tmp_path):
    """The traceback of an error has it; and the graph may be over before the thread has looked once."""
    runs = {"create"}
    with Write(tmp_path / "a.h5") as write:
        target = write.target
        kept = Keepalive(Held(target.folder, target.lock, target.write_id, "create", runs.__contains__))
        try:
            with writers.engaged(target, False):
                pass
            runs.clear()
            assert not settle(target.folder)
        finally:
            let_go(target.write_id)
            del kept
