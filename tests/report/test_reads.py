"""What the benchmark of reading prints, worked out by hand."""

from dataclasses import replace

from gpuprep.report.reads import format_reads
from gpuprep.run.bench_read import CodedFrame, FrameRead, ReadBenchmark

ONE = FrameRead("a", 0, "zstd", 4_000_000, 1_000_000, 250_000, 0.001, 0.002, 0.007, True, False)
TWO = replace(ONE, path="b", stored_bytes=3_000_000, open_s=0.003, read_s=0.004, decode_s=0.033, is_spread=True)
PLAIN = replace(ONE, path="c", coding="uncompressed", stored_bytes=4_000_000, cached_bytes=1_500_000, is_16_bit=False)
CODED = (
    CodedFrame("packbits", 1000, 500, 0.002),
    CodedFrame("uncompressed", 1000, 1000, 0.001),
    CodedFrame("lzw", 1000, 250, 0.02),
)


def test_rates_sizes_and_times():
    benchmark = ReadBenchmark("inode", False, (ONE, TWO, PLAIN), ("d: x", "e: y", "f: z", "g: w"), CODED)
    assert [" ".join(line.split()) for line in format_reads(benchmark).splitlines()] == [
        "3 files, one frame of each, in inode order, one after the other: 50.0 files/s",
        "page cache: it held 25% of the bytes read (caches of disks and servers cannot be seen)",
        "pixels: 2 of 3 frames have 16 bits, 1 of them hold but 8 bits times 257, which compress better",
        *("failed: d: x", "failed: e: y", "failed: f: z", "… and 1 more files failed"),
        "",
        "one frame by compression, medians",
        "compression files MB size : pixels open ms read ms decode ms MB/s decoded",
        "uncompressed 1 4.00 1.000 1.00 2.00 7.00 571",
        "zstd 2 2.00 0.500 2.00 3.00 20.00 200",
        "",
        "1 of the frames written with each compressor, decoded from memory",
        "compression size : pixels size : packbits decode ms decode : uncompressed",
        "uncompressed 1.000 2.000 1.00 1.0",
        "lzw 0.250 0.500 20.00 20.0",
        "packbits 0.500 1.000 2.00 2.0",
    ]


def test_a_page_cache_that_is_not_known_is_not_guessed():
    reads = (ONE, replace(ONE, cached_bytes=None))
    text = format_reads(ReadBenchmark("random", True, reads, (), ()))
    assert "page cache: emptied of these files first; the file system does not tell what it held\n" in text
