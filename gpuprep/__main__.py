"""``python -m gpuprep``."""

from gpuprep.cli.main import main

if __name__ == "__main__":
    main()
