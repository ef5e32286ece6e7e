"""All metrics of a run in one call."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .agreement import AgreementDifference, agreement_difference, recognised
from .features import ClassifyingNetwork, FeatureNetwork, extract_features
from .frechet import FrechetResult, frechet_with_interval
from .images import check_images
from .perceptual import perceptual_distance
from .pixels import mean_squared_error, psnr, ssim


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """Quality of a run against a reference run with the same noise, and of both against data.

    Attributes
    ----------
    images : int
        Images of each run.
    mse, psnr_db, ssim : float
        Against the reference; `psnr_db` is infinite where nothing differs.
    perceptual_distance : float or None
        Against the reference; None without a network.
    agreement : AgreementDifference or None
        Run a is the run, run b the reference; None without labels.
    frechet, reference_frechet : FrechetResult or None
        Fréchet distances of the run and of the reference to the held-out images; None without those.
    """

    images: int
    mse: float
    psnr_db: float
    ssim: float
    perceptual_distance: float | None = None
    agreement: AgreementDifference | None = None
    frechet: FrechetResult | None = None
    reference_frechet: FrechetResult | None = None

    def to_dict(self) -> dict[str, float]:
        """Flat metrics for `write_results`.

        What was not measured is left out, and so is an infinite PSNR, which JSON cannot hold: then `mse` is 0.
        """
        flat: dict[str, float] = {"images": self.images, "mse": self.mse, "ssim": self.ssim}
        if math.isfinite(self.psnr_db):
            flat["psnr_db"] = self.psnr_db
        if self.perceptual_distance is not None:
            flat["perceptual_distance"] = self.perceptual_distance
        if (agreement := self.agreement) is not None:
            flat |= {
                "class_agreement": agreement.a,
                "class_agreement_reference": agreement.b,
                "class_agreement_difference": agreement.difference,
                "class_agreement_difference_lower": agreement.lower,
                "class_agreement_difference_upper": agreement.upper,
                "class_agreement_p_value": agreement.p_value,
            }
        for suffix, result in (("", self.frechet), ("_reference", self.reference_frechet)):
            if result is not None:
                flat |= {
                    f"frechet_distance{suffix}": result.distance,
                    f"frechet_distance{suffix}_low": result.low,
                    f"frechet_distance{suffix}_high": result.high,
                    f"frechet_distance{suffix}_bias": result.bias,
                }
        return flat


def compare(
    images: torch.Tensor,
    reference: torch.Tensor,
    *,
    labels: torch.Tensor | None = None,
    classifier: ClassifyingNetwork | None = None,
    held_out: torch.Tensor | None = None,
    held_out_labels: torch.Tensor | None = None,
    features: FeatureNetwork | None = None,
) -> QualityReport:
    """Measure a run against a reference run with the same noise and labels, and both against data.

    Parameters
    ----------
    images, reference : torch.Tensor
        (N, C, H, W) in [0, 1].
    labels : torch.Tensor, optional
        int64 (N,): what was asked for; gives class agreement. Needs `classifier`.
    classifier : Classifier, optional
        The classifier that ships with the model (`load_classifier`).
    held_out : torch.Tensor, optional
        Real images (M, C, H, W) in [0, 1] that no model was trained on; gives Frechet distances.
    held_out_labels : torch.Tensor, optional
        int64 (M,). With `labels`, the intervals of the Frechet distances are those of sets with fixed class counts.
    features : FeatureNetwork, optional
        Network of the perceptual and the Frechet distance, by default `classifier`.

    Raises
    ------
    TypeError, ValueError
        Something is not a batch of images, sizes do not fit, a metric lacks its network, or there are too few images
        for a covariance.
    """
    if labels is not None and classifier is None:
        raise ValueError("labels are given but no classifier; pass classifier=load_classifier(...)")
    network: FeatureNetwork | None = features if features is not None else classifier
    if held_out is not None:
        if network is None:
            raise ValueError("held_out is given but no network; pass classifier=load_classifier(...) or features=")
        check_images(held_out, "held_out")
    elif held_out_labels is not None:
        raise ValueError("held_out_labels are given but no held_out images; pass held_out=")
    report = {
        "mse": mean_squared_error(images, reference),
        "psnr_db": psnr(images, reference),
        "ssim": ssim(images, reference),
    }
    agreement, frechet, reference_frechet = None, None, None
    if labels is not None and classifier is not None:
        agreement = agreement_difference(
            recognised(images, labels, classifier), recognised(reference, labels, classifier)
        )
    if held_out is not None and network is not None:
        real = extract_features(held_out, network)
        frechet, reference_frechet = (
            frechet_with_interval(extract_features(run, network), real, labels_a=labels, labels_b=held_out_labels)
            for run in (images, reference)
        )
    return QualityReport(
        images=len(images),
        perceptual_distance=None if network is None else perceptual_distance(images, reference, network),
        agreement=agreement,
        frechet=frechet,
        reference_frechet=reference_frechet,
        **report,
    )
