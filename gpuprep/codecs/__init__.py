"""Transfer syntaxes to pixels."""

from gpuprep.registry import Registry

#: Decoders of encapsulated frames, in order of preference.
DECODERS = Registry(
    "decoder",
    {
        "host-rle": "gpuprep.codecs.cpu:RLE",
        "deflate": "gpuprep.codecs.cpu:DEFLATE",
        "imagecodecs-jpeg8": "gpuprep.codecs.cpu:JPEG8",
        "imagecodecs-jpegls": "gpuprep.codecs.cpu:JPEGLS",
        "imagecodecs-jpeg2k": "gpuprep.codecs.cpu:JPEG2K",
        "pydicom-gdcm": "gpuprep.codecs.cpu:GDCM",
    },
)


def describe_decoders() -> dict[str, str]:
    """Return, for each compressed transfer syntax that can be decoded here, its name and its decoders, best first."""
    from pydicom.uid import UID

    from gpuprep.codecs.cpu import DEFLATED_FRAME

    # What pydicom's dictionary lacks. Source: PS3.6 table A-1.
    names = {DEFLATED_FRAME: "Deflated Image Frame Compression"}
    decoders: dict[str, list[str]] = {}
    for name in DECODERS:
        for uid in DECODERS.load(name).syntaxes():
            decoders.setdefault(uid, []).append(name)
    return {names.get(uid, UID(uid).name): ", ".join(decoders[uid]) for uid in sorted(decoders)}
