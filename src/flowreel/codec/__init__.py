"""Media to model latents and back: autoencoders, log-mel, vocoders. The only home of scales."""

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
