"""Programs that read an ONNX file, each run by the Python of its own environment; they import nothing of hwnas."""
