"""Turning media into model latents and back: autoencoders, log-mel, vocoders, and the scales between them."""

from flowreel.codec.autoencoder import VideoAutoencoder
from flowreel.codec.codec import Codec, StreamDecoder
from flowreel.codec.hifigan import HiFiGAN
from flowreel.codec.tiny import TinyAutoencoder
from flowreel.codec.vocoder import GriffinLim, StreamingVocoder

__all__ = [
    "Codec",
    "GriffinLim",
    "HiFiGAN",
    "StreamDecoder",
    "StreamingVocoder",
    "TinyAutoencoder",
    "VideoAutoencoder",
]
