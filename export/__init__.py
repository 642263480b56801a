"""Export: a module as ONNX, and the certificate that proves it."""

from .certificate import Certificate, Latency, certify
from .onnx_model import compose, layers_to_onnx, to_onnx

__all__ = ["Certificate", "Latency", "certify", "compose", "layers_to_onnx", "to_onnx"]
