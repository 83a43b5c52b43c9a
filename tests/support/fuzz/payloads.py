"""Damaged payloads through every decoder: no crash, no hang, no more memory than the chunk declares.

    python -m tests.support.fuzz.payloads --runs 1000000 --seed 0 [--codec zstd]

A child process decodes a batch, so that a crash or a hang is found, counted, and named by its seed;
``--codec NAME --seed SEED --runs 1`` repeats it.  Where a checksum is in the pipeline, other data must not come back,
unless HDF5 takes the payload for whole, too.
"""

import collections
import contextlib
import faulthandler
import json
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import h5py
import numpy as np

from dask_chunkio.errors import IntegrityError
from dask_chunkio.filters.chunk_format import ChunkFormat, Decoder, Payload
from dask_chunkio.filters.decoder import DirectDecoder
from dask_chunkio.filters.decoders import decoder_for
from dask_chunkio.filters.deflate import DEFLATE
from dask_chunkio.filters.fletcher32 import FLETCHER32
from dask_chunkio.filters.hdf5_decoder import Hdf5Decoder
from dask_chunkio.storage.hdf5.dataset import describe
from tests.filters.test_hdf5_encoder import STACKS, nbit, szip
from tests.filters.test_plugin import CODECS, SHAPED
from tests.support.h5py_stores import dataset, noise, pipeline_dataset, stored, walk
from tests.support.options import seeded

CHECKED: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip"},
    "shuffle-gzip": {"compression": "gzip", "shuffle": True},
    "fletcher32": {"fletcher32": True},
    "gzip-fletcher32": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    **{
        f"{name}-fletcher32": {**CODECS[name][0], "fletcher32": True}
        for name in ("zstd", "lz4", "bitshuffle", "blosc2")
    },
    "lzf-fletcher32": {"compression": "lzf", "fletcher32": True},
    "szip-fletcher32": {**STACKS["szip"], "fletcher32": True},
    "sz3-fletcher32": {**SHAPED["sz3"][0], "fletcher32": True},
}
PLAIN: dict[str, dict[str, Any]] = {
    "none": {},
    "shuffle": {"shuffle": True},
    "shuffle-zstd": {**CODECS["zstd"][0], "shuffle": True},
}
BUILT_IN = {"szip-nn": szip, "nbit": nbit}
SHAPES = ((24, 20), (130, 70))
BATCH = 500
# Seconds for one payload, on a machine that may be busy.
PATIENCE = 180
# Memory that a library takes for itself, whatever the size of the chunk.
OWN_MEMORY = 16 << 20


@dataclass
class Case:
    """Payloads of one pipeline and one shape of chunks."""

    form: ChunkFormat
    decoder: Decoder
    samples: list[tuple[Payload, bytes]]

    @property
    def is_checked(self) -> bool:
        """Whether deflate or fletcher32 compares a checksum."""
        return any(step.code in (DEFLATE, FLETCHER32) for step in self.form.filters)


def cases(name: str) -> list[Case]:
    return [_case(name, shape) for shape in SHAPES]


def _case(name: str, shape: tuple[int, int]) -> Case:
    samples = []
    for data in (walk(shape, "i4"), np.zeros(shape), noise(shape, "u2")):
        with _dataset(name, shape) as made:
            form = describe(made).form
            ((mask, payload),) = stored(made, (np.abs(data) % 200).astype(made.dtype)).values()
            samples.append((Payload(payload, mask), made[...].tobytes()))
    return Case(form, decoder_for(form), samples)


@contextlib.contextmanager
def _dataset(name: str, shape: tuple[int, int]) -> Iterator[h5py.Dataset]:
    if name in BUILT_IN:
        with h5py.File(f"fuzz-{os.urandom(8).hex()}", "w", driver="core", backing_store=False) as file:
            yield pipeline_dataset(file, walk(shape, "i4"), BUILT_IN[name])
        return
    keywords, dtypes = _PLUGINS.get(name) or (_STACKS[name], ["<i4"])
    dtype = "f4" if name.startswith("sz") and "szip" not in name else "<i2" if "<i2" in dtypes else dtypes[0]
    with dataset(shape, dtype, shape, **keywords) as made:
        yield made


_PLUGINS: dict[str, tuple[Mapping[str, Any], list[str]]] = {**CODECS, **SHAPED}
_STACKS: dict[str, Mapping[str, Any]] = {**CHECKED, **PLAIN, **STACKS}
NAMES = (*CHECKED, *PLAIN, *CODECS, *SHAPED, *STACKS, *BUILT_IN)


def damaged(draw: random.Random, case: Case) -> Payload:
    """Return a damaged payload; without a checksum, sometimes with another mask."""
    payload, _ = draw.choice(case.samples)
    other, _ = draw.choice(case.samples)
    data = bytearray(payload.data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(DAMAGES)(draw, data, bytes(other.data))
    mask = payload.mask
    if not case.is_checked and draw.random() < 0.05:
        mask = draw.getrandbits(draw.choice((2, 32)))
    return Payload(bytes(data), mask)


Damage = Callable[[random.Random, bytearray, bytes], bytearray]
EXTREMES = (0, 1, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1)

ORDERS: tuple[Literal["little"], Literal["big"]] = ("little", "big")


def _flip(draw: random.Random, data: bytearray, __: bytes) -> bytearray:
    for _ in range(draw.choice((1, 1, 1, 2, 8, 64)) if data else 0):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def _cut(draw: random.Random, data: bytearray, _: bytes) -> bytearray:
    return data[: draw.randrange(len(data) + 1)] if draw.random() < 0.5 else data[: -draw.randrange(1, 9)]


def _extend(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    return data + draw.choice((draw.randbytes(draw.randrange(1, 64)), bytes(draw.randrange(1, 64)), other))


def _set_field(draw: random.Random, data: bytearray, _: bytes) -> bytearray:
    """Set a number, most often one of the header, to an extreme or to nearly what it was."""
    width, order = draw.choice((1, 2, 4, 8)), draw.choice(ORDERS)
    at = draw.randrange(max(1, min(len(data), draw.choice((16, 40, 200, len(data) or 1)))))
    was = int.from_bytes(data[at : at + width], order)
    number = draw.choice((*EXTREMES, was + 1, was - 1, was * 2, was // 2, len(data), draw.getrandbits(64)))
    data[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, order)
    return data


def _swap(draw: random.Random, data: bytearray, _: bytes) -> bytearray:
    length = draw.choice((1, 2, 4, 16, 64))
    first, second = (draw.randrange(len(data) + 1) for _ in range(2))
    data[first : first + length], data[second : second + length] = (
        data[second : second + length],
        data[first : first + length],
    )
    return data


def _overwrite(draw: random.Random, data: bytearray, _: bytes) -> bytearray:
    length, at = draw.choice((1, 4, 16, 100)), draw.randrange(len(data) + 1)
    data[at : at + length] = draw.choice((draw.randbytes(length), bytes(length), b"\xff" * length))
    return data


def _splice(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def _random(draw: random.Random, data: bytearray, _: bytes) -> bytearray:
    return bytearray(draw.randbytes(draw.choice((0, 1, 5, 20, len(data), 2 * len(data)))))


DAMAGES: tuple[Damage, ...] = (_flip, _cut, _extend, _set_field, _set_field, _set_field, _swap, _overwrite, _splice)
DAMAGES = (*DAMAGES, _flip, _random)


class Tally:
    """Counts that a child shares with its parent, and the seed at which it is."""

    NAMES = ("seed", "refused", "same", "other", "collisions", "crashes contained", "bounds contained")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(self.NAMES))

    def __getitem__(self, name: str) -> int:
        return int(struct.unpack_from("<q", self._memory, 8 * self.NAMES.index(name))[0])

    def __setitem__(self, name: str, number: int) -> None:
        struct.pack_into("<q", self._memory, 8 * self.NAMES.index(name), number)


class WrongError(Exception):
    """What must not be; the parent prints it."""


def decode_one(name: str, forms: list[Case], seed: int, tally: Tally) -> None:
    draw = random.Random(f"{name} {seed}")
    case = draw.choice(forms)
    payload = damaged(draw, case)
    if draw.random() < 0.2:
        _decode_part(draw, case, payload)
    before, most = _peak(), max(case.decoder.most_nbytes, payload.nbytes)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        found = case.decoder.decode(payload)
    except IntegrityError as error:
        _require(str(error).startswith("its "), f"words: {error}")
        contained = "crash" if "crashes" in str(error) else "bound" if "more time" in str(error) else ""
        contained = "bound" if "more memory" in str(error) else contained
        tally[{"crash": "crashes contained", "bound": "bounds contained"}.get(contained, "refused")] += 1
    else:
        _require(found.shape == case.form.chunk_shape and found.dtype == case.form.dtype, "another shape or dtype")
        # Spliced, a payload may become another one.
        is_same = found.tobytes() in {chunk for _, chunk in case.samples}
        if not is_same and case.is_checked:
            # The checksum may be right by chance, as for words of zeros that become 0xffff in fletcher32.
            _require(_by_hdf5(case, payload) == found.tobytes(), "other data, in spite of a checksum")
            tally["collisions"] += 1
        else:
            tally["same" if is_same else "other"] += 1
    _require(_peak() - before <= 4 * most + OWN_MEMORY, f"{_peak() - before} bytes more for {most}")


def _decode_part(draw: random.Random, case: Case, payload: Payload) -> None:
    """Decode what a reader of some of the elements needs."""
    first, last = sorted(draw.sample(range(case.form.nbytes + 1), 2))
    with contextlib.suppress(IntegrityError):
        found = case.decoder.decode(payload, slice(first, last))
        _require(found.shape == case.form.chunk_shape, "another shape of a part")


def _by_hdf5(case: Case, payload: Payload) -> bytes:
    try:
        return Hdf5Decoder(case.form).decode(payload).tobytes()
    except IntegrityError as error:
        return str(error).encode()


def _require(is_right: bool, words: str) -> None:
    if not is_right:
        raise WrongError(words)


def _peak() -> int:
    """Return the most memory that the process has had mapped."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmPeak"))


def batch(name: str, forms: list[Case], end: int, tally: Tally, words: Any) -> None:
    """Decode from the seed of the tally on, in a child."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # plugins print
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.disable()
    seed = tally["seed"]
    try:
        for seed in range(tally["seed"], end):
            tally["seed"] = seed
            decode_one(name, forms, seed, tally)
        tally["seed"] = end
    except BaseException as error:
        words.write(f"{name}, seed {seed}: {type(error).__name__}: {error}\n")
        words.flush()
        os._exit(1)
    os._exit(0)


def run(name: str, seed: int, runs: int, words: Any = sys.stdout) -> dict[str, Any]:
    """Decode damaged payloads of a codec; return counts, and how many children ended as none may."""
    forms, tally, began = cases(name), Tally(), time.monotonic()
    tally["seed"], endings = seed, collections.Counter[str]()
    while tally["seed"] < seed + runs:
        end = min(tally["seed"] + BATCH, seed + runs)
        child = os.fork()
        if child == 0:
            batch(name, forms, end, tally, words)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            endings[f"signal {-code}" if code < 0 else "wrong"] += 1
            if code < 0:
                words.write(f"{name}, seed {tally['seed']}: ended by signal {-code}\n")
            tally["seed"] += 1
    counts = {one: tally[one] for one in Tally.NAMES[1:]}
    decoder = "in the process" if isinstance(forms[0].decoder, DirectDecoder) else "in a process of its own"
    seconds = round(time.monotonic() - began, 1)
    return {"codec": name, "decoded": decoder, "runs": runs, **counts, "failures": dict(endings), "seconds": seconds}


def main() -> int:
    parser = seeded(__doc__, 100_000)
    parser.add_argument("--codec", choices=NAMES, help="one of them; by default all, in equal parts")
    parser.add_argument(
        "--isolated-runs", type=int, help="for each codec that has a process of its own; by default as others"
    )
    options = parser.parse_args()
    names = [options.codec] if options.codec else NAMES
    failures = 0
    for name in names:
        runs = -(-options.runs // len(names))
        if options.isolated_runs is not None and not isinstance(cases(name)[0].decoder, DirectDecoder):
            runs = options.isolated_runs
        found = run(name, options.seed, runs)
        failures += sum(found["failures"].values())
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
