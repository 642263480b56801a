"""Export: a module as ONNX, fit for shipping, and the certificate that proves it."""

from .card import model_card
from .certificate import INT8, PLAIN, Certificate, Latency, MobileCheck, Tolerance, certify
from .onnx_model import compose, layers_to_onnx, to_onnx
from .precision import to_fp16, to_int8
from .running import Footprint, Mobile, to_mobile
from .shipping import OfPixels, at_batch, at_opset, described
from .targets import TargetCheck, Wanted, check_targets, trtexec_command

__all__ = [
    "INT8",
    "PLAIN",
    "Certificate",
    "Footprint",
    "Latency",
    "Mobile",
    "MobileCheck",
    "OfPixels",
    "TargetCheck",
    "Tolerance",
    "Wanted",
    "at_batch",
    "at_opset",
    "certify",
    "check_targets",
    "compose",
    "described",
    "layers_to_onnx",
    "model_card",
    "to_fp16",
    "to_int8",
    "to_mobile",
    "to_onnx",
    "trtexec_command",
]
