"""Data preparation: clips are encoded to shards of latents, and shards are read as training windows.

Knows files, media and the codec; does not know any other network.
"""
