"""From a folder of clips to shards of latents, and from shards to windows to train on.

Knows files, media and the codec, and no other network.
"""
