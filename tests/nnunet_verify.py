"""Run nnU-Net's own verification on a data set: ``python nnunet_verify.py FOLDER``, in nnU-Net's environment."""

import os
import sys
import tempfile

if __name__ == "__main__":
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, tempfile.gettempdir())
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(sys.argv[1], num_processes=1)
