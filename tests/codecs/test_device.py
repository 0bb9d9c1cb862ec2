"""Loading through DALI, its graphs on the CPU, against the CPU decoders; and each of its traps."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import numpy as np
import pytest
from fake_cuda import CudaRuntimeError
from pydicom.encaps import encapsulate

from gpuprep.backends.cpu import CpuBackend
from gpuprep.codecs import dali
from gpuprep.codecs.base import Image, clean_bits
from gpuprep.codecs.batch import Decoded, decode_stack, fold_offset
from gpuprep.codecs.codestream import Codestream
from gpuprep.codecs.dali import BATCH_FRAMES, LOSSY_TOLERANCE, Kind, Loader, find_kind, is_loadable, unstretch
from gpuprep.codecs.device import load_by
from gpuprep.codecs.load import load_stack
from gpuprep.config import Transforms
from gpuprep.dicom.framespec import FrameSpec
from gpuprep.dicom.header import InstanceHeader, read_headers
from gpuprep.dicom.stack import Frame, Stack, build_stacks
from gpuprep.dicom.synth import axial_geometry, build_ct_slice, plan_series, write_dataset
from gpuprep.errors import BackendUnavailableError, CaseError, DecodeError, DeviceMemoryError
from gpuprep.ops.intensity import to_modality
from gpuprep.run import volumes
from gpuprep.run.plan import Channel
from gpuprep.run.stopwatch import Stopwatch
from gpuprep.volume import Volume

EXPLICIT = "1.2.840.10008.1.2.1"
BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
JPEG_2000_LOSSY = "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSY = "1.2.840.10008.1.2.4.203"
HTJ2K = "1.2.840.10008.1.2.4.201"

Encode = Callable[[Image], bytes]


@pytest.fixture(scope="module")
def loader() -> Loader:
    return make_loader(Loader)


def make_loader(kind: type[Loader]) -> Loader:
    try:
        return kind(None, np, 2)
    except BackendUnavailableError as error:
        if error.code != "dali-missing":
            raise
        pytest.skip(f"{error.message}; {error.hint}")


def load(loader: Loader, stack: Stack) -> Decoded:
    return load_by(loader, stack, CpuBackend(1), workers=2)


def stored_values(decoded: Decoded) -> Image:
    """Return what a decoded stack says that the stored values are."""
    words = np.array(decoded.array)
    if not decoded.bits_are_clean:
        clean_bits(words, decoded.spec)
    return words.astype(np.int64) - decoded.offset


def stack_of_all_frames(header: InstanceHeader) -> Stack:
    """Return the frames of one file, whatever they show, as a stack."""
    spec = FrameSpec.from_header(header)
    offsets = [(0.0, 0.0, float(n)) for n in range(spec.number_of_frames)]
    return Stack(
        frames=tuple(Frame(header, n, float(n)) for n in range(spec.number_of_frames)),
        geometry=axial_geometry((spec.number_of_frames, spec.rows, spec.columns), spacing_xyz_mm=(1, 1, 1)),
        spec=spec,
        plane_offsets_lps_mm=tuple(offsets),
    )


def encode_j2k(bits: int, **options: Any) -> Encode:
    options = {"reversible": True, **options}
    return lambda pixels: bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", bitspersample=bits, **options))


def encode_htj2k(pixels: Image, **options: Any) -> bytes:
    return bytes(imagecodecs.htj2k_encode(pixels, **{"reversible": True, **options}))


def make_pixels(bits: int, *, frames: int = 3, is_signed: bool = False, seed: int = 0) -> Image:
    low = -(1 << bits - 1) if is_signed else 0
    pixels = np.random.default_rng(seed).integers(low, low + (1 << bits), (frames, 20, 30))
    pixels[:, 0, :2] = low, low + (1 << bits) - 1
    return pixels.astype(f"{'i' if is_signed else 'u'}{1 if bits <= 8 else 2}")


def write_stack(
    folder: Path,
    pixels: Image,
    bits: int,
    syntax: str,
    encode: Encode,
    *,
    damage: Callable[[int, bytes], bytes] | None = None,
) -> Stack:
    """Write each frame as an encapsulated slice and return their stack."""
    folder.mkdir(exist_ok=True)
    series = plan_series(axial_geometry(pixels.shape, spacing_xyz_mm=(1, 1, 2)))
    for index, frame in enumerate(pixels):
        dataset = build_ct_slice(series, index, np.zeros(frame.shape))
        if syntax == EXPLICIT:
            dataset.PixelData = frame.tobytes()
        else:
            data = encode(frame)
            dataset.PixelData = encapsulate([data if damage is None else damage(index, data)])
            dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * frame.itemsize, bits, bits - 1
        dataset.PixelRepresentation = int(frame.dtype.kind == "i")
        dataset.file_meta.TransferSyntaxUID = syntax
        write_dataset(dataset, folder / f"{index:03d}.dcm")
    (stack,) = build_stacks(read_headers([str(path) for path in sorted(folder.iterdir())]))
    return stack


# --- The proof ------------------------------------------------------------------------------------------------------

#: Files of syntaxes/ that DALI's CPU graph decodes. Others are RGB or packed bits, or in syntaxes that only CPU
#: decoders know; the samples of one (693_J2KI.dcm) have more bits than its header allows.
SERVED_BY_DALI = {
    "dcm_qa_ts/In/9.dcm",
    "pydicom_data_syntaxes/693_J2KR.dcm",
    "pydicom_data_syntaxes/MR2_J2KI.dcm",
    "pydicom_data_syntaxes/MR2_J2KR.dcm",
    "pydicom_data_syntaxes/explicit_VR-UN.dcm",
    "pylibjpeg_data/JPEG2000/ELSCINT1_JP2vsJ2K.dcm",
    "pylibjpeg_data/JPEG2000/JPEG2000.dcm",
    "pylibjpeg_data/JPEG2000/MAROTECH_CT_JP2Lossy.dcm",
    "pylibjpeg_data/JPEG2000/MR2_J2KI.dcm",
    "pylibjpeg_data/JPEG2000/OsirixFake16BitsStoredFakeSpacing.dcm",
    "pylibjpeg_data/JPEGBaseline/JPEGBaseline_1s_1f_u_08_08.dcm",
}


def test_every_file_of_every_syntax_is_as_the_cpu_decoders_decode_it(loader: Loader, data_dir: Path) -> None:
    folder = data_dir / "syntaxes"
    served, compared = set(), 0
    for header in read_headers(sorted(str(path) for path in folder.rglob("*.dcm"))):
        try:
            stack = stack_of_all_frames(header)
            expected = decode_stack(stack, workers=2)
        except CaseError:
            continue  # no image
        loaded = load(loader, stack)
        np.testing.assert_array_equal(stored_values(loaded), stored_values(expected), err_msg=header.path)
        compared += 1
        if loaded.decoder == "dali-cpu":
            served.add(Path(header.path).relative_to(folder).as_posix())
        else:
            assert loaded.decoder == expected.decoder
    assert served == SERVED_BY_DALI
    assert compared == 81


def test_tiles_of_a_mosaic_are_cut_out_on_the_device(loader: Loader, data_dir: Path) -> None:
    folder = data_dir / "syntaxes" / "dcm_qa_ts" / "In"
    loaded, native = (load(loader, *build_stacks(read_headers([str(folder / name)]))) for name in ("9.dcm", "1.dcm"))
    assert (loaded.decoder, native.decoder) == ("dali-cpu", "native")
    assert loaded.array.shape == (35, 64, 64)
    np.testing.assert_array_equal(stored_values(loaded), stored_values(native))


@pytest.mark.parametrize("frames", [1, BATCH_FRAMES, 2 * BATCH_FRAMES + 5])
def test_frames_of_many_files_are_in_order(loader: Loader, frames: int, tmp_path: Path) -> None:
    pixels = make_pixels(12, frames=frames)
    loaded = load(loader, write_stack(tmp_path, pixels, 12, HTJ2K, encode_htj2k))
    assert (loaded.decoder, loaded.loader) == ("dali-cpu", loader.description)
    np.testing.assert_array_equal(stored_values(loaded), pixels)


@pytest.mark.parametrize("dtype", ["u1", "i2"])
def test_native_frames_go_through_the_graph_that_uploads(loader: Loader, dtype: str) -> None:
    pixels = np.random.default_rng(1).integers(-128, 127, (BATCH_FRAMES + 1, 5, 7)).astype(dtype)
    uploaded = loader.upload(pixels)
    assert uploaded.dtype == pixels.dtype
    np.testing.assert_array_equal(uploaded, pixels)


def test_threads_share_a_loader(loader: Loader, tmp_path: Path) -> None:
    stacks = []
    for n in range(6):
        pixels = make_pixels(12, frames=40, seed=n)
        stacks.append((write_stack(tmp_path / str(n), pixels, 12, HTJ2K, encode_htj2k), pixels))
    with ThreadPoolExecutor(3) as pool:
        for loaded, (_, pixels) in zip(pool.map(lambda s: load(loader, s[0]), stacks), stacks, strict=True):
            np.testing.assert_array_equal(stored_values(loaded), pixels)


def test_a_volume_is_the_same_through_dali(loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = make_pixels(16, frames=BATCH_FRAMES + 3, is_signed=True)
    stack = write_stack(tmp_path, pixels, 16, JPEG_2000, encode_j2k(16))
    channel = Channel("CT", "1.2.3", stack.instances)

    record: dict[str, Any] = {"warnings": []}

    def load_channel() -> tuple[Volume, str]:
        return volumes.load_volume(channel, stack, Transforms(), CpuBackend(1), 2, Stopwatch(), record)

    expected, decoder = load_channel()
    assert decoder == "imagecodecs-jpeg2k"
    assert "loader" not in record
    monkeypatch.setattr(volumes, "load_stack", lambda s, backend, workers: load_by(loader, s, backend, workers=workers))
    volume, decoder = load_channel()
    assert decoder == "dali-cpu"
    assert record["loader"] == loader.description
    assert volume.array.dtype == expected.array.dtype
    np.testing.assert_array_equal(volume.array, expected.array)


# --- Its traps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("syntax", [JPEG_2000, HTJ2K])
def test_samples_of_every_precision_are_not_rescaled(loader: Loader, syntax: str, bits: int, tmp_path: Path) -> None:
    pixels = make_pixels(bits)
    encode = encode_j2k(bits) if syntax == JPEG_2000 else encode_htj2k
    loaded = load(loader, write_stack(tmp_path, pixels, bits, syntax, encode))
    assert loaded.decoder == "dali-cpu"
    np.testing.assert_array_equal(stored_values(loaded), pixels)


def test_8_bit_samples_in_words_of_16_bits_are_not_rescaled(loader: Loader, tmp_path: Path) -> None:
    pixels = make_pixels(8).astype(np.uint16)
    stack = write_stack(tmp_path, pixels, 8, JPEG_2000, lambda p: encode_j2k(8)(p.astype(np.uint8)))
    loaded = load(loader, stack)
    assert (loaded.decoder, loaded.array.dtype) == ("dali-cpu", np.uint16)
    np.testing.assert_array_equal(stored_values(loaded), pixels)


def test_grey_jpeg_is_decoded_as_grey_and_not_turned(loader: Loader, tmp_path: Path) -> None:
    pixels = make_pixels(8, frames=5)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation: turn by 90 degrees

    def encode(frame: Image) -> bytes:
        data = bytes(imagecodecs.jpeg8_encode(frame, level=90))
        return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]

    stack = write_stack(tmp_path, pixels, 8, BASELINE, encode)
    loaded = load(loader, stack)
    assert loaded.decoder == "dali-cpu"
    np.testing.assert_array_equal(loaded.array, decode_stack(stack, workers=2).array)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEG_2000_LOSSY, encode_j2k(16, reversible=False, level=30)),
        (HTJ2K_LOSSY, partial(encode_htj2k, reversible=False, level=0.05)),
    ],
)
def test_lossy_samples_do_not_wrap_around_at_the_ends_of_their_range(
    loader: Loader, syntax: str, encode: Encode, tmp_path: Path
) -> None:
    pixels = (make_pixels(1, frames=2) * np.uint16(0xFFFF)).astype(np.uint16)
    stack = write_stack(tmp_path, pixels, 16, syntax, encode)
    loaded = load(loader, stack)
    assert loaded.decoder == "dali-cpu"
    assert 0 < np.abs(stored_values(loaded) - pixels).max() < 0x4000
    np.testing.assert_allclose(
        stored_values(loaded), decode_stack(stack, workers=2).array, rtol=0, atol=LOSSY_TOLERANCE
    )


@pytest.mark.parametrize(("slope", "is_folded"), [(2.0, True), (0.3, False)])
@pytest.mark.parametrize(("bits", "precision"), [(16, 16), (12, 12), (16, 14)])
def test_signed_samples_leave_their_offset_in_the_intercept(
    loader: Loader, bits: int, precision: int, slope: float, is_folded: bool, tmp_path: Path
) -> None:
    pixels = make_pixels(precision, is_signed=True)
    loaded = load(loader, write_stack(tmp_path, pixels, bits, JPEG_2000, encode_j2k(precision)))
    assert (loaded.decoder, loaded.offset) == ("dali-cpu", 1 << bits - 1)
    np.testing.assert_array_equal(stored_values(loaded), pixels)

    slopes, intercepts = np.full(3, slope), np.full(3, -1000.0)
    folded, new_intercepts = fold_offset(loaded, slopes, intercepts)
    assert folded.offset == 0
    assert (new_intercepts[0] == -1000 - slope * (1 << bits - 1)) == is_folded
    backend = CpuBackend(1)
    values = to_modality(folded.array, folded.spec, slopes, new_intercepts, backend=backend)
    spec = replace(folded.spec, is_signed=True)
    expected = to_modality(pixels.copy(), spec, slopes, intercepts, backend=backend)
    assert values.dtype == expected.dtype
    np.testing.assert_array_equal(values, expected)


def test_without_offset_there_is_nothing_to_fold(loader: Loader, tmp_path: Path) -> None:
    loaded = load(loader, write_stack(tmp_path, make_pixels(12), 12, HTJ2K, encode_htj2k))
    intercepts = np.full(3, -1024.0)
    assert fold_offset(loaded, np.ones(3), intercepts) == (loaded, intercepts)


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("rounding", [np.floor, np.rint])
def test_unstretching_is_exact(bits: int, rounding: Callable[[Any], Any]) -> None:
    values = np.arange(1 << bits)
    stretched = rounding(values * (65535 / (len(values) - 1)) + 1e-9).astype(np.uint16)
    np.testing.assert_array_equal(unstretch(stretched, bits, np), values)


class StretchingLoader(Loader):
    """Decodes as DALI is said to do lossless JPEG on a device."""

    def _run(self, is_encoded: bool, dtype: Any, batches: Any) -> Iterator[tuple[Any, Any]]:
        for tag, images in super()._run(is_encoded, dtype, batches):
            yield tag, np.rint(images * (65535 / 4095)).astype(np.uint16) if is_encoded else images


def test_12_bits_that_a_device_stretches_are_stretched_back(tmp_path: Path) -> None:
    pixels = make_pixels(12, frames=BATCH_FRAMES + 2)
    loaded = load(make_loader(StretchingLoader), write_stack(tmp_path, pixels, 12, JPEG_2000, encode_j2k(12)))
    assert loaded.decoder == "dali-cpu"
    np.testing.assert_array_equal(stored_values(loaded), pixels)


class WrongLoader(Loader):
    """Gets a pixel wrong."""

    def _run(self, is_encoded: bool, dtype: Any, batches: Any) -> Iterator[tuple[Any, Any]]:
        for tag, images in super()._run(is_encoded, dtype, batches):
            yield tag, images ^ (images == images.max()) if is_encoded else images


def test_a_loader_that_gives_other_pixels_is_not_used_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = make_pixels(12)
    stack = write_stack(tmp_path, pixels, 12, JPEG_2000, encode_j2k(12))
    loader = make_loader(WrongLoader)
    for _ in range(2):
        loaded = load(loader, stack)
        assert loaded.decoder == "imagecodecs-jpeg2k"
        np.testing.assert_array_equal(stored_values(loaded), pixels)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]  # once
    assert "gives other pixels than imagecodecs-jpeg2k" in caplog.text


def test_lossy_samples_may_be_rounded_elsewhere_by_one_grey_level_only(loader: Loader) -> None:
    spec = FrameSpec(BASELINE, 2, 2, bits_allocated=8, bits_stored=8, high_bit=7, is_signed=False)
    expected = np.array([[7, 8], [9, 10]], np.uint8)
    for syntax, difference, scales in [(BASELINE, 1, ["exact"]), (BASELINE, 2, []), (JPEG_2000, 1, [])]:
        found = expected + np.uint8(difference)
        assert loader._find_scales(Kind(syntax, 8, False), found, expected, spec) == scales


def test_black_frames_and_bits_above_the_stored_ones(loader: Loader) -> None:
    spec = FrameSpec(JPEG_2000, 1, 2, bits_allocated=16, bits_stored=12, high_bit=11, is_signed=False)
    black = np.zeros((1, 2), np.uint16)
    for precision, scales in [
        (8, ["exact"]),
        (9, ["exact", "stretched"]),
        (15, ["exact", "stretched"]),
        (16, ["exact"]),
    ]:
        assert loader._find_scales(Kind(JPEG_2000, precision, False), black, black, spec) == scales
    found, expected = np.array([[0x1005, 0xFFFF]], np.uint16), np.array([[5, -1]], np.int16)
    assert loader._find_scales(Kind(JPEG_2000, 16, False), found, expected, spec) == ["exact"]


def test_what_a_graph_fails_on_is_handed_on_as_it_is(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, pixels = Kind(JPEG_LOSSLESS, 12, False), make_pixels(12)
    monkeypatch.setattr(loader, "_run", lambda is_encoded, dtype, batches: ((tags, None) for tags, _ in batches))
    monkeypatch.setitem(loader._scales, kind, "stretched")
    assert list(loader.decode(kind, [("ab", [b"", b""])])) == [("ab", None)]
    np.testing.assert_array_equal(loader.upload(pixels), pixels)


@pytest.mark.parametrize(("samples", "bits", "is_it"), [(1, 8, True), (1, 16, True), (3, 8, False), (1, 32, False)])
def test_what_can_go_through_a_graph(samples: int, bits: int, is_it: bool) -> None:
    spec = FrameSpec(EXPLICIT, 2, 2, bits, bits, bits - 1, is_signed=False, samples_per_pixel=samples)
    assert is_loadable(spec) == is_it


def test_black_frames_do_not_tell_whether_samples_are_stretched(tmp_path: Path) -> None:
    pixels = make_pixels(12, frames=BATCH_FRAMES + 4)
    pixels[:5] = 0
    loaded = load(make_loader(StretchingLoader), write_stack(tmp_path / "some", pixels, 12, JPEG_2000, encode_j2k(12)))
    assert loaded.decoder == "dali-cpu"
    np.testing.assert_array_equal(stored_values(loaded), pixels)

    pixels[:BATCH_FRAMES] = 0
    loaded = load(make_loader(StretchingLoader), write_stack(tmp_path / "all", pixels, 12, JPEG_2000, encode_j2k(12)))
    assert loaded.decoder == "imagecodecs-jpeg2k"
    np.testing.assert_array_equal(stored_values(loaded), pixels)


class FailingLoader(Loader):
    """Cannot decode one frame, which CPU decoders can."""

    bad = b""

    def _run(self, is_encoded: bool, dtype: Any, batches: Any) -> Iterator[tuple[Any, Any]]:
        def spoil(item: Image) -> Image:
            is_bad = bool(self.bad) and item[64:].tobytes().rstrip(b"\0") == self.bad[64:].rstrip(b"\0")
            return item[: item.size // 2] if is_bad else item

        return super()._run(is_encoded, dtype, ((tag, [spoil(item) for item in items]) for tag, items in batches))


@pytest.mark.parametrize("is_signed", [False, True])
def test_a_frame_that_dali_cannot_decode_costs_its_batch_and_no_other(
    is_signed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = make_pixels(12, frames=3 * BATCH_FRAMES, is_signed=is_signed)
    encode = encode_j2k(12)
    stack = write_stack(tmp_path, pixels, 12, JPEG_2000, encode)
    loader = make_loader(FailingLoader)
    loader.bad = encode(pixels[BATCH_FRAMES + 3])
    loaded = load(loader, stack)
    assert loaded.decoder == "dali-cpu, imagecodecs-jpeg2k"
    np.testing.assert_array_equal(stored_values(loaded), pixels)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    loader.bad = b""
    assert load(loader, stack).decoder == "dali-cpu"


class ShortLoader(Loader):
    """Has no memory for more than some frames at once, and says so in one of the ways of DALI."""

    most = 4
    words = "CUDA allocation failed"
    frees = more_when_freed = 0

    def _build(self, is_encoded: bool, dtype: Any) -> Any:
        graph = super()._build(is_encoded, dtype)
        real, taken = graph.pipeline, []

        class Pipeline:
            def run(self, stream: Any) -> Any:
                (output,) = real.run(stream)
                taken.append(len(output))
                if taken[-1] > loader.most:
                    raise RuntimeError(f"Critical error in pipeline:\n{loader.words}")
                return (output,)

            reset = real.reset

        loader = self
        return replace(graph, pipeline=Pipeline())

    def _free_memory(self) -> None:
        super()._free_memory()
        self.frees += 1
        self.most += self.more_when_freed


@pytest.mark.parametrize(
    "words",
    [
        "CUDA allocation failed",
        "std::bad_alloc",
        "NVJPEG_STATUS_ALLOCATOR_FAILURE",
        "CUDA_ERROR_OUT_OF_MEMORY (2): out of memory",
        "Can't allocate 9 bytes on device 0.",
    ],
)
def test_batches_that_a_device_has_no_memory_for_are_halved(
    words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = make_pixels(12, frames=2 * BATCH_FRAMES + 5)
    loader = make_loader(ShortLoader)
    loader.words = words
    loaded = load(loader, write_stack(tmp_path, pixels, 12, HTJ2K, encode_htj2k))
    assert loaded.decoder == "dali-cpu"
    np.testing.assert_array_equal(stored_values(loaded), pixels)
    said = [r.getMessage() for r in caplog.records]
    assert [m.split("memory for ")[1].split(" at once")[0] for m in said] == ["32 frames", "16 frames", "8 frames"]
    assert all(m.endswith(words) for m in said)
    assert loader.frees == 3
    uploaded = loader.upload(pixels)
    np.testing.assert_array_equal(uploaded, pixels)


def test_no_memory_for_a_frame_is_a_shortage_of_the_case_and_not_the_end_of_dali(tmp_path: Path) -> None:
    pixels = make_pixels(12, frames=3)
    stack = write_stack(tmp_path, pixels, 12, HTJ2K, encode_htj2k)
    loader = make_loader(ShortLoader)
    loader.most = 0
    for ask in (lambda: load(loader, stack), lambda: loader.upload(pixels)):
        with pytest.raises(DeviceMemoryError, match="has no memory for a frame: CUDA allocation failed") as caught:
            ask()
        assert caught.value.code == "device-memory"
    loader.more_when_freed = 1
    loaded = load(loader, stack)
    assert loaded.decoder == "dali-cpu"
    np.testing.assert_array_equal(stored_values(loaded), pixels)


def test_no_memory_for_a_graph_is_a_shortage_too() -> None:
    class NoGraph(Loader):
        def _build(self, is_encoded: bool, dtype: Any) -> Any:
            raise RuntimeError("CUDA allocation failed")

    with pytest.raises(DeviceMemoryError):
        make_loader(NoGraph)


def test_a_corrupt_frame_is_named_and_the_loader_goes_on(loader: Loader, tmp_path: Path) -> None:
    pixels = make_pixels(12, frames=2 * BATCH_FRAMES)

    def damage(index: int, data: bytes) -> bytes:
        return data[: len(data) // 2] + b"\xff\xd9" if index == BATCH_FRAMES + 7 else data

    stack = write_stack(tmp_path / "bad", pixels, 12, JPEG_2000, encode_j2k(12), damage=damage)
    with pytest.raises(DecodeError) as caught:
        load(loader, stack)
    assert caught.value.code == "corrupt-frame"
    assert caught.value.subject == stack.frames[BATCH_FRAMES + 7].instance.path
    assert caught.value.message.startswith("frame 1: ")
    good = load(loader, write_stack(tmp_path / "good", pixels, 12, JPEG_2000, encode_j2k(12)))
    assert good.decoder == "dali-cpu"
    np.testing.assert_array_equal(stored_values(good), pixels)


@pytest.mark.parametrize("position", [0, 40])
def test_a_file_that_cannot_be_read_ends_the_stack_and_the_loader_goes_on(
    loader: Loader, position: int, tmp_path: Path
) -> None:
    pixels = make_pixels(12, frames=2 * BATCH_FRAMES)
    stack = write_stack(tmp_path / "bad", pixels, 12, HTJ2K, encode_htj2k)
    path = Path(stack.frames[position].instance.path)
    path.unlink()
    with pytest.raises(DecodeError) as caught:
        load(loader, stack)
    assert (caught.value.code, caught.value.subject) == ("unreadable", str(path))
    good = load(loader, write_stack(tmp_path / "good", pixels, 12, HTJ2K, encode_htj2k))
    np.testing.assert_array_equal(stored_values(good), pixels)


def test_a_codestream_without_its_end_is_left_to_the_cpu_decoders(tmp_path: Path) -> None:
    data = encode_j2k(12)(make_pixels(12)[0])
    spec = FrameSpec(JPEG_2000, 20, 30, bits_allocated=16, bits_stored=12, high_bit=11, is_signed=False)
    assert find_kind(data, spec) == Kind(JPEG_2000, 12, False)
    for padding in (b"\0", b"\xff", bytes(3)):
        assert find_kind(data + padding, spec) is not None
    assert find_kind(data[:-1], spec) is None


@pytest.mark.parametrize(
    ("stream", "stored", "is_served"),
    [  # precision, is signed, where it starts in its box; bits stored, is signed
        ((12, False, 0), (12, False), True),
        ((10, False, 0), (12, False), True),
        ((12, False, 0), (12, True), True),
        ((10, False, 0), (12, True), False),
        ((10, True, 0), (12, True), True),
        ((12, True, 0), (12, False), False),
        ((12, True, 85), (12, True), False),
        ((14, True, 0), (12, True), False),
        ((7, False, 0), (7, False), False),
    ],
)
def test_codestreams_that_are_not_what_their_header_says_are_left_to_the_cpu_decoders(
    stream: tuple[int, bool, int],
    stored: tuple[int, bool],
    is_served: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    precision, is_signed, starts_at = stream
    bits, says_signed = stored
    read = Codestream(20, 30, 1, precision, is_signed, starts_at=starts_at)
    monkeypatch.setattr(dali, "read_header", lambda data, spec: read)
    spec = FrameSpec(JPEG_2000, 20, 30, bits_allocated=16, bits_stored=bits, high_bit=bits - 1, is_signed=says_signed)
    kind = Kind(JPEG_2000, precision, is_signed)
    assert find_kind(b"\xff\xd9", spec) == (kind if is_served else None)


def test_frames_of_another_kind_go_elsewhere_and_come_back_in_the_same_form(loader: Loader, tmp_path: Path) -> None:
    pixels = make_pixels(16, frames=2 * BATCH_FRAMES, is_signed=True)

    def damage(index: int, data: bytes) -> bytes:  # samples that call themselves unsigned
        if index != BATCH_FRAMES:
            return data
        return encode_j2k(16)(pixels[index].view(np.uint16))

    stack = write_stack(tmp_path, pixels, 16, JPEG_2000, encode_j2k(16), damage=damage)
    loaded = load(loader, stack)
    assert loaded.decoder == "dali-cpu, imagecodecs-jpeg2k"
    np.testing.assert_array_equal(stored_values(loaded), pixels)


# --- The device's form of the graphs, without a device ---------------------------------------------------------------

STREAM = 0x51


@pytest.fixture
def streams(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have DALI run on the CPU what is built for device 0; return the streams that graphs are run on."""
    used: list[int] = []
    real = loader._dali

    class Pipeline(real.Pipeline):  # type: ignore[misc, name-defined]
        def __init__(self, *, device_id: int, **options: Any) -> None:
            assert device_id == 0
            super().__init__(device_id=None, **options)

        def run(self, cuda_stream: int) -> Any:
            used.append(cuda_stream)
            return super().run()

    def decode(data: Any, *, device: str, **options: Any) -> Any:
        assert device == "mixed"
        return real.fn.decoders.image(data, device="cpu", **options)

    def reinterpret(data: Any, **options: Any) -> Any:
        return SimpleNamespace(gpu=lambda: real.fn.reinterpret(data, **options))  # nothing else may become of it

    fn = SimpleNamespace(
        external_source=real.fn.external_source, decoders=SimpleNamespace(image=decode), reinterpret=reinterpret
    )
    stub = SimpleNamespace(__version__="2.4", Pipeline=Pipeline, fn=fn, types=real.types, backend=real.backend)
    monkeypatch.setattr(dali, "_import_dali", lambda: stub)
    monkeypatch.setattr(dali, "_FOUND", {})
    return used


class DeviceBackend(CpuBackend):
    """A CPU backend that says it is CUDA and has a current device and stream."""

    def __init__(self) -> None:
        super().__init__(1)
        self.name = "cuda"
        self.is_lost = False
        self.taken = 0
        self.in_use: set[int] = set()
        self.given_back_in_use: list[bool] = []
        stream = SimpleNamespace(ptr=STREAM, synchronize=self.wait)
        cuda = SimpleNamespace(Device=lambda: SimpleNamespace(id=0), get_current_stream=lambda: stream)
        names = ("abs", "asarray", "empty", "uint16", "uint32")
        self.xp = SimpleNamespace(  # type: ignore[assignment]
            cuda=cuda, from_dlpack=self.take, **{name: getattr(np, name) for name in names}
        )

    def take(self, tensor: Any) -> Image:
        """Return a batch of DALI, which the stream uses until somebody waits for it."""
        array, number = np.from_dlpack(tensor), self.taken
        self.taken += 1
        self.in_use.add(number)
        weakref.finalize(array, lambda: self.given_back_in_use.append(number in self.in_use))
        return array

    def wait(self) -> None:
        if self.is_lost:
            raise CudaRuntimeError(700)
        self.in_use.clear()


@pytest.mark.parametrize(
    ("syntax", "decoder"), [(JPEG_2000, "dali-cuda"), (None, "native"), (JPEG_LOSSLESS, "imagecodecs-jpeg8")]
)
def test_graphs_of_a_device_run_on_the_stream_of_the_backend(
    syntax: str | None, decoder: str, streams: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = make_pixels(12, frames=BATCH_FRAMES + 1)
    if syntax == JPEG_2000:
        stack = write_stack(tmp_path, pixels, 12, syntax, encode_j2k(12))
    else:  # DALI on the CPU cannot decode lossless JPEG: what a device fails on is learnt from the first frame
        stack = write_stack(
            tmp_path, pixels, 12, syntax or EXPLICIT, lambda p: bytes(imagecodecs.ljpeg_encode(p, bitspersample=12))
        )
    backend = DeviceBackend()
    loaded = load_stack(stack, backend, workers=2)
    assert (loaded.decoder, loaded.loader) == (decoder, "DALI 2.4 on device 0")
    np.testing.assert_array_equal(stored_values(loaded), pixels)
    assert len(streams) >= 2
    assert set(streams) == {STREAM}
    assert ("does not decode it" in caplog.text) == (syntax == JPEG_LOSSLESS)
    assert backend.given_back_in_use == [False] * backend.taken


def test_a_device_that_is_lost_in_dali_is_not_taken_for_a_bad_frame(streams: list[int]) -> None:
    backend = DeviceBackend()
    loader = dali.find_loader(backend, 2)
    assert isinstance(loader, Loader)

    def run(stream: int) -> Any:
        backend.is_lost = True
        raise RuntimeError("CUDA runtime API error cudaErrorIllegalAddress (700)")

    (graph,) = loader._idle[False, np.dtype(np.uint16)]
    graph.pipeline.run = run
    with pytest.raises(CudaRuntimeError):  # of which `CudaBackend.activate` makes a DeviceLostError
        loader.upload(make_pixels(12))


def test_a_shortage_frees_the_memory_that_cupy_holds(streams: list[int]) -> None:
    backend, freed = DeviceBackend(), []
    backend.xp.get_default_memory_pool = lambda: SimpleNamespace(  # type: ignore[attr-defined]
        free_all_blocks=lambda: freed.append(True)
    )
    loader = dali.find_loader(backend, 2)
    assert isinstance(loader, Loader)
    loader._free_memory()
    assert freed == [True]


# --- Where there is no DALI, or no device --------------------------------------------------------------------------


@pytest.fixture
def cuda_backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A backend that says it is CUDA: device 0, arrays on the host."""
    monkeypatch.setattr(dali, "_FOUND", {})
    stream = SimpleNamespace(synchronize=lambda: None)
    xp = SimpleNamespace(cuda=SimpleNamespace(Device=lambda: SimpleNamespace(id=0), get_current_stream=lambda: stream))
    return SimpleNamespace(name="cuda", xp=xp, upload=np.copy, host_array=np.empty)


def test_without_dali_the_cpu_decoders_serve_and_the_reason_is_kept(
    cuda_backend: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    pixels = make_pixels(12)
    loaded = load_stack(write_stack(tmp_path, pixels, 12, JPEG_2000, encode_j2k(12)), cuda_backend, workers=2)
    assert loaded.decoder == "imagecodecs-jpeg2k"
    assert loaded.loader.startswith("DALI cannot be imported")
    assert loaded.loader.endswith("[dali-missing]")
    np.testing.assert_array_equal(stored_values(loaded), pixels)


def test_without_a_device_dali_says_why_it_does_not_work(loader: Loader, cuda_backend: Any) -> None:
    found = dali.find_loader(cuda_backend, 1)
    assert isinstance(found, str)
    assert found.endswith("[dali-failed]")


def test_on_the_cpu_dali_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    loaded = load_stack(write_stack(tmp_path, make_pixels(12), 12, HTJ2K, encode_htj2k), CpuBackend(1), workers=2)
    assert (loaded.decoder, loaded.loader) == ("imagecodecs-jpeg2k", "")
