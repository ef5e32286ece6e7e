"""The models: architecture, data set and the sampling settings they were tuned for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .data_emoji import MEMBERS

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DiTTransformer2DModel

TRAIN_TIMESTEPS = 1000
"""Length of the noise schedule that the denoisers were trained on."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A class-conditional DiT and how to sample from it.

    Attributes
    ----------
    name : str
        Name of the model.
    image_size : int
        Height and width in pixels.
    channels : int
        1 for grey pictures, 3 for red, green and blue.
    patch_size, num_layers, num_heads, head_dim : int
        Architecture of diffusers' ``DiTTransformer2DModel``.
    subject : str
        What the pictures show, in the plural.
    class_names : tuple of str
        What a picture of each class shows, in the order of the labels.
    num_inference_steps : int
        DDIM steps used by the demo and for the figures in the model card.
    guidance_scale : float
        Classifier-free guidance weight; 1 switches guidance off (and halves the work).
    shift_augmentation : int
        Largest random translation of a training image, in pixels.
    teacher : str or None
        Shipped model with other patches whose blocks training starts from and whose predictions it learns, on the same
        data; that model's classifier is the judge of both.
    """

    name: str
    image_size: int
    channels: int = 1
    patch_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    subject: str = "digits"
    class_names: tuple[str, ...] = tuple("0123456789")
    num_inference_steps: int
    guidance_scale: float
    shift_augmentation: int = 0
    teacher: str | None = None

    @property
    def dataset(self) -> str:
        """Name of the data set, and of the classifier that was trained on it."""
        return self.teacher or self.name

    @property
    def num_classes(self) -> int:
        """Class labels are ``0 .. num_classes-1``; ``num_classes`` itself is the null label."""
        return len(self.class_names)

    @property
    def null_label(self) -> int:
        """Label that stands for "no class" in classifier-free guidance."""
        return self.num_classes

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        return (self.image_size // self.patch_size) ** 2


DIGITS = ModelSpec(
    name="digits",
    image_size=8,
    patch_size=2,
    num_layers=4,
    num_heads=2,
    head_dim=32,
    num_inference_steps=10,
    guidance_scale=1.0,
)
"""scikit-learn's 8x8 digits: small enough for tests on RTL."""

MNIST = ModelSpec(
    name="mnist",
    image_size=28,
    patch_size=4,
    num_layers=6,
    num_heads=3,
    head_dim=32,
    num_inference_steps=15,
    guidance_scale=2.0,
    shift_augmentation=1,
)
"""28x28 MNIST digits."""

MNIST_PATCH2 = replace(MNIST, name="mnist-patch2", patch_size=2, teacher="mnist")
"""`MNIST` with four times as many tokens, in 14 rows: to be divided over several devices."""

EMOJI = ModelSpec(
    name="emoji",
    image_size=32,
    channels=3,
    patch_size=4,
    num_layers=6,
    num_heads=4,
    head_dim=32,
    subject="emoji",
    class_names=tuple(MEMBERS),
    num_inference_steps=20,
    guidance_scale=2.0,
    shift_augmentation=2,
)
"""32x32 emoji in colour."""

SPECS = {spec.name: spec for spec in (DIGITS, MNIST, MNIST_PATCH2, EMOJI)}


def get_spec(name: str) -> ModelSpec:
    """Look a model up by name.

    Raises
    ------
    ValueError
        No model has that name; the message lists those that exist.
    """
    try:
        return SPECS[name]
    except KeyError:
        raise ValueError(f"unknown model {name!r}; choose one of {', '.join(sorted(SPECS))}") from None


def build_denoiser(spec: ModelSpec) -> DiTTransformer2DModel:
    """Make the denoiser of `spec` with random weights, in eval mode.

    Eval mode matters even in training: in train mode diffusers draws the dropped class labels
    anew in every block, so that no evaluation is ever truly unconditional.
    """
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=spec.num_heads,
        attention_head_dim=spec.head_dim,
        in_channels=spec.channels,
        num_layers=spec.num_layers,
        sample_size=spec.image_size,
        patch_size=spec.patch_size,
        num_embeds_ada_norm=spec.num_classes,
    ).eval()


def build_scheduler() -> DDIMScheduler:
    """Make the DDIM scheduler that fits the training: cosine schedule, v-prediction.

    ``trailing`` spacing starts at the last timestep, whose signal-to-noise ratio is zero, so
    that sampling starts from the distribution that training ended on.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=True,
        clip_sample_range=1.0,
        set_alpha_to_one=True,
    )
