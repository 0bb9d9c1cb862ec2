"""Every layout of labelled cases fulfils the contract of writers."""

from contracts import WriterContract

from gpuprep.config import MaskStrategy
from gpuprep.writers.medsegpy import MedsegpyWriter
from gpuprep.writers.nnunet import DatasetFolder, NnunetWriter
from gpuprep.writers.supervisely import AnnotationWriter, PlaneWriter, VolumeWriter

SCAN_IDS = {"one": "0000001_V00", "two": "0000001_V01"}


class TestSuperviselyByVolumeName(WriterContract):
    def make_writer(self, root):
        return VolumeWriter(root, "label")


class TestSuperviselyObjects(WriterContract):
    def make_writer(self, root):
        return VolumeWriter(root, "component", threads=2)


class TestSuperviselyByPlane(WriterContract):
    def make_writer(self, root):
        return PlaneWriter(root, ("axl", "cor", "sag"), "semantic", "last")


class TestSuperviselyByPlaneWithScores(WriterContract):
    def make_writer(self, root):
        return PlaneWriter(root, ("cor",), "semantic", "last", has_scores=True)


class TestSuperviselyByPlaneInstances(WriterContract):
    def make_writer(self, root):
        return PlaneWriter(root, ("axl", "sag"), "instance", "error", "component")


class TestSuperviselyAnnotations(WriterContract):
    writes_images = False

    def make_writer(self, root):
        return AnnotationWriter(
            root, {"one": (("axl", "a"), ("sag", "b")), "two": (("axl", "b"),)}, "instance", "error"
        )


class TestMedsegpySlices(WriterContract):
    def make_writer(self, root):
        return MedsegpyWriter(root, "2d", SCAN_IDS, {"one": "train", "two": "train"})


class TestMedsegpyVolumes(WriterContract):
    def make_writer(self, root):
        return MedsegpyWriter(root, "3d", SCAN_IDS, {"one": "train", "two": "val"}, threads=2)


class TestNnunetRegions(WriterContract):
    def make_writer(self, root):
        return NnunetWriter(DatasetFolder(root, 1, "x"), {"one": "Tr", "two": "Ts"}, MaskStrategy.REGION_MASK, ("CT",))


class TestNnunetLabels(WriterContract):
    keeps_overlap = False

    def make_writer(self, root):
        return NnunetWriter(DatasetFolder(root, 1, "x"), {"one": "Tr", "two": "Ts"}, MaskStrategy.LABEL_IMAGE, ("CT",))
