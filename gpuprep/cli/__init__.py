"""The gpuprep command: parse, call, print."""
