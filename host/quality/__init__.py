"""Image quality: against a reference run with the same noise, and against data.

Definitions are in docs/quality.md. Images are floating point (N, C, H, W) in [0, 1] throughout.
"""

from __future__ import annotations

from .agreement import AgreementDifference, agreement_difference, class_agreement, recognised
from .efficientnet import EfficientNetFeatures, EfficientNetNotInstalledError, load_efficientnet
from .features import FeatureNetwork, extract_features
from .frechet import FrechetResult, SeedFloor, frechet_distance, frechet_with_interval, seed_to_seed_floor
from .images import to_unit_range
from .paired import PairedBound, paired_bound
from .perceptual import perceptual_distance, perceptual_distance_per_image
from .pixels import mean_squared_error, psnr, psnr_per_image, squared_error_per_image, ssim, ssim_per_image
from .report import QualityReport, compare

__all__ = [
    "AgreementDifference",
    "EfficientNetFeatures",
    "EfficientNetNotInstalledError",
    "FeatureNetwork",
    "FrechetResult",
    "PairedBound",
    "QualityReport",
    "SeedFloor",
    "agreement_difference",
    "class_agreement",
    "compare",
    "extract_features",
    "frechet_distance",
    "frechet_with_interval",
    "load_efficientnet",
    "mean_squared_error",
    "paired_bound",
    "perceptual_distance",
    "perceptual_distance_per_image",
    "psnr",
    "psnr_per_image",
    "recognised",
    "seed_to_seed_floor",
    "squared_error_per_image",
    "ssim",
    "ssim_per_image",
    "to_unit_range",
]
