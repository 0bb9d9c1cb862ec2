"""DICOM headers to cases: crawl, index, link, stack, structure sets and segmentations. No pixels."""
